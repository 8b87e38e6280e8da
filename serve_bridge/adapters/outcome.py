"""What became of a forwarded request; each adapter makes of it what its framework's users expect."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from random import getrandbits
from typing import Any

import msgspec

from serve_bridge.errors import BackendError, ServeBridgeError
from serve_bridge.forwarding import Forwarded, Refused, failed
from serve_bridge.messages import HeaderList
from serve_bridge.results import Answer

logger = logging.getLogger("serve_bridge.adapters")
# A prefix per process would be shared by forked workers. `random` seeds itself anew after a fork, without a system call
# for each request.
request_ids: Iterator[str] = iter(lambda: f"{getrandbits(64):016x}", "")


class Outcome(msgspec.Struct, frozen=True):
    """What became of a forwarded request.

    Attributes:
        status: The status to answer with.
        headers: The headers to answer with, lower-case.
        body: The whole body, or its chunks: blocking from `Bridge.ask`, asynchronous from `Bridge.ask_async`.
        error: Why there is no answer of user code, or the `BackendError` that stands for what user code raised; the
            body is then a problem (RFC 9457). None if all went well.
    """

    status: int
    headers: HeaderList
    body: Any
    error: Exception | None = None

    @classmethod
    def of(cls, answer: Answer, error: Exception | None = None) -> Outcome:
        """Return the outcome that has *answer*."""
        return cls(answer.status, answer.headers, answer.body, error)

    @property
    def request_id(self) -> str:
        """The id under which the log knows the request."""
        return next((value.decode() for name, value in self.headers if name == b"x-request-id"), "")

    @property
    def text_headers(self) -> list[tuple[str, str]]:
        """The headers as text."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers]


def refused(error: ServeBridgeError | Refused, request: Forwarded | None = None) -> Outcome:
    """Return the outcome of a *request* that got no answer of user code; an error of ours is logged."""
    request_id = request.request_id if request is not None else next(request_ids)
    if isinstance(error, ServeBridgeError):
        logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
    return Outcome.of(failed(error, request_id), error)


def backend_error(failure: str) -> BackendError | None:
    """Return the error that stands for what user code raised, given the traceback of it."""
    if not failure:
        return None
    name, _, text = failure.rstrip().rpartition("\n")[2].partition(":")
    return BackendError(name.strip(), text.strip(), failure)
