"""Requests that the proxy does not serve: how they are answered, counted and logged.

Rule 1: the refusal of a readable request is answered behind the middlewares, like any other answer of the proxy: the
    connection puts it into the scope under `REFUSAL`, and `RefusingApp` answers it.
Rule 2: each refusal is counted by its status. A flood of them is a few log lines.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_bridge.context import new_request_id
from serve_bridge.forwarding.refusals import client_request_id, refusal_answer
from serve_bridge.forwarding.websocket import deny
from serve_bridge.http.answers import Answer
from serve_bridge.http.headers import HeaderList
from serve_bridge.http_server.refusal import Refusal

__all__ = ["REFUSAL", "Refusals", "RefusingApp", "answer_of", "request_id_of", "send_answer"]

REFUSAL: Final = "serve_bridge.refusal"
"""Key of a scope whose request is not served; the value is a `Refusal` and the request's id."""

EPISODE_S: Final = 10.0
"""Time over which refusals are logged together."""

LINES: Final = 5
"""Upper limit for the refusals with one status that get a line of their own in an episode. One line counts the rest."""


class Refusals:
    """Counts and logs the refusals of one proxy.

    Attributes:
        counts: Refused requests by status, since the proxy started.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.counts: Counter[int] = Counter()
        self._logger = logger
        self._age_s = 0.0
        self._lines: Counter[int] = Counter()
        self._unlogged: Counter[int] = Counter()

    def note(self, refusal: Refusal, request_id: str, *, level: int = logging.INFO) -> None:
        """Count a refusal, and log it if the episode has had few."""
        self.counts[refusal.status] += 1
        if self._lines[refusal.status] < LINES:
            self._lines[refusal.status] += 1
            message = "refused a request with %d: %s (request id %s)"
            self._logger.log(level, message, refusal.status, refusal.reason, request_id)
        else:
            self._unlogged[refusal.status] += 1

    def settle(self, elapsed: float) -> None:
        """End an episode that has lasted `EPISODE_S`; *elapsed* seconds after the last call."""
        if not self._lines:
            return
        self._age_s += elapsed
        if self._age_s < EPISODE_S:
            return
        if self._unlogged:
            summed = ", ".join(f"{count} with {status}" for status, count in sorted(self._unlogged.items()))
            self._logger.info("refused %d more requests: %s", self._unlogged.total(), summed)
            self._unlogged.clear()
        self._age_s = 0.0
        self._lines.clear()


class RefusingApp:
    """An application that gets the requests that are served; the others are answered here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve or refuse one request."""
        return self._app(scope, receive, send) if REFUSAL not in scope else _refuse(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    answer = answer_of(*scope[REFUSAL])
    if scope["type"] == "websocket":
        await receive()
        await deny(scope, send, answer)
    else:
        await send_answer(send, answer)


def answer_of(refusal: Refusal, request_id: str) -> Answer:
    """Return the answer to a refused request: a problem document (RFC 9457) with the request's id."""
    is_busy = refusal.status == HTTPStatus.SERVICE_UNAVAILABLE
    executed = "no" if is_busy else None
    answer = refusal_answer(refusal.status, refusal.reason, request_id, executed=executed, retry=is_busy)
    answer.headers.extend(refusal.headers)
    return answer


def request_id_of(headers: HeaderList) -> str:
    """Return the id of a request: the client's own if it is a valid one, otherwise a new one."""
    return client_request_id(headers) or new_request_id()


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer that is complete."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
