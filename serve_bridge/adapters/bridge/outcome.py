"""The outcome of a forwarded request. Each adapter translates it to a response or an exception of its framework."""

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

logger: Final = logging.getLogger("serve_bridge.adapters")
_BROKEN: Final = 500
request_ids: Iterator[str] = iter(lambda: request_id() or new_request_id(), "")
"""Ids for requests without a valid id: the id of the request under way in this thread or task, otherwise a new one."""


class Outcome(msgspec.Struct, frozen=True):
    """The answer to a forwarded request, and the error if it failed.

    Attributes:
        status: The status of the answer.
        headers: The headers of the answer, with names in lower case.
        body: The whole body, or its chunks: an iterator from `Bridge.ask`, an asynchronous one from `Bridge.ask_async`.
        error: The reason why user code gave no answer, or a `BackendError` if user code raised. Then the body is a
            problem document (RFC 9457). None if the request succeeded.
        backend: Name of the backend whose code raised; "" otherwise.
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
        """The id of the request in the log."""
        return next((value.decode() for name, value in self.headers if name == b"x-request-id"), "")

    @property
    def text_headers(self) -> list[tuple[str, str]]:
        """The headers as pairs of str."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers]


def answered(status: int, headers: HeaderList, body: Any, raised: HttpFailure | None) -> Outcome:
    """Return the outcome of an answer; *raised* is the exception of user code, if there was one."""
    if raised is None:
        return Outcome(status, headers, body)
    return Outcome(status, headers, body, _error_of(raised), raised.backend)


def refused(
    error: ServeBridgeError | Refused, request: ForwardedRequest | None = None, *, in_view: bool = False
) -> Outcome:
    """Return the outcome of a *request* that got no answer of user code.

    With *in_view*, a view of the application raised *error*. The view had begun, so the outcome does not say "no".
    A ServeBridgeError is logged here. But if its status is 500, the framework or `report` logs it.
    """
    request_id = request.request_id if request is not None else next(request_ids)
    outcome = Outcome.of(failed(error, request_id, from_adapter=True, ran=in_view), error)
    if isinstance(error, ServeBridgeError) and outcome.status != _BROKEN:
        logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
    return outcome


def report(outcome: Outcome, *, raised: bool = False) -> None:
    """Log the error of *outcome*, for an adapter without an exception of its framework for it.

    Frameworks and error trackers report a raised exception by themselves, so a record here would be a second event for
    one failure. Pass *raised* for a framework that answers an exception without logging it: error trackers see the
    exception, so the record is only a warning, which is not an event for them. If the status is not 500, the record is
    one line without a traceback: not user code failed, but a call of another backend.
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
    """Log the exception of user code, for an adapter without a framework that could raise it."""
    logger.error(failure_message(raised.backend), request_id, exc_info=_error_of(raised))


def _error_of(raised: HttpFailure) -> BackendError:
    return BackendError(raised.type_name, raised.text, raised.traceback)
