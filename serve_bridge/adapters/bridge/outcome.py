"""What became of a forwarded request; each adapter makes of it what its framework's users expect."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from serve_bridge.context import new_request_id, request_id
from serve_bridge.errors import BackendError, ServeBridgeError, failure_message
from serve_bridge.forwarding.refusals import Refused, failed
from serve_bridge.http.answers import Answer
from serve_bridge.http.headers import HeaderList

if TYPE_CHECKING:
    from serve_bridge.forwarding.request import ForwardedRequest
    from serve_bridge.wire.heads import HttpFailure

logger = logging.getLogger("serve_bridge.adapters")
_BROKEN: Final = 500
request_ids: Iterator[str] = iter(lambda: request_id() or new_request_id(), "")
"""Ids for requests that come without one: that of the request which runs here, if there is one."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a forwarded request.

    Attributes:
        status: The status to answer with.
        headers: The headers to answer with, lower-case.
        body: The whole body, or its chunks: blocking from `Bridge.ask`, asynchronous from `Bridge.ask_async`.
        error: Why there is no answer of user code, or the `BackendError` that stands for what user code raised; the
            body is then a problem (RFC 9457). None if all went well.
        backend: Name of the backend whose code raised; empty if it did not.
    """

    status: int
    headers: HeaderList
    body: Any
    error: Exception | None = None
    backend: str = ""

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


def answered(status: int, headers: HeaderList, body: Any, raised: HttpFailure | None) -> Outcome:
    """Return the outcome that a backend has answered; *raised* is what its code raised, if it did."""
    if raised is None:
        return Outcome(status, headers, body)
    return Outcome(status, headers, body, _error_of(raised), raised.backend)


def refused(error: ServeBridgeError | Refused, request: ForwardedRequest | None = None) -> Outcome:
    """Return the outcome of a *request* that got no answer of user code.

    An error of the engine is logged, unless its status is 500: then the framework reports it, or `report` does.
    """
    request_id = request.request_id if request is not None else next(request_ids)
    outcome = Outcome.of(failed(error, request_id, from_adapter=True), error)
    if isinstance(error, ServeBridgeError) and outcome.status != _BROKEN:
        logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
    return outcome


def report(outcome: Outcome, *, raised: bool = False) -> None:
    """Log what went wrong, with the exception, for an adapter that does not raise it in its framework.

    Frameworks and error trackers report what is raised, so one failure would be two events. *raised* is for a
    framework that answers what is raised and logs nothing, while error trackers see it: the record is a warning, which
    is not an event for them. A status other than 500 is one line: a call of the backend failed, and not its code.
    """
    error = outcome.error
    if isinstance(error, BackendError):
        message = failure_message(outcome.backend)
    elif isinstance(error, ServeBridgeError) and outcome.status == _BROKEN:
        message = "request %s failed"
    else:
        return
    if outcome.status != _BROKEN:
        logger.warning(message + ": %s: %s", outcome.request_id, type(error).__name__, error)
    else:
        logger.log(logging.WARNING if raised else logging.ERROR, message, outcome.request_id, exc_info=error)


def log_backend_failure(raised: HttpFailure, request_id: str) -> None:
    """Log what code of a backend raised, for an adapter that has no framework to raise it in."""
    logger.error(failure_message(raised.backend), request_id, exc_info=_error_of(raised))


def _error_of(raised: HttpFailure) -> BackendError:
    return BackendError(raised.type_name, raised.text, raised.traceback)
