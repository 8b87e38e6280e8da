"""Every error that the engine itself raises: one tree, one HTTP status each.

Rule 1: a leaf is also the builtin that users already catch (`except ValueError` works).
Rule 2: an error survives pickling with all its fields: most are raised in one process and seen in another.
Rule 3: `str` says what happened and what to do about it. It never holds a key or the value of an argument.

    ServeBridgeError
     ├─ ConfigError             ValueError
     ├─ EndpointNotFound        KeyError, ValueError    404
     ├─ BackendNotFound         KeyError, ValueError    404
     ├─ MethodNotExposed        AttributeError          404
     ├─ BackendOverloaded                               503   executed: no
     ├─ DeadlineExceeded        TimeoutError            504   executed: no or unknown
     ├─ ReplicaDied             ConnectionError         502   executed: no or unknown
     ├─ BackendError            RuntimeError
     ├─ BackendStartError       RuntimeError
     ├─ DeploymentError         RuntimeError
     ├─ SerializationError      TypeError
     ├─ NotConnected            ConnectionError         503
     ├─ InstanceClosed          RuntimeError            503
     ├─ ProtocolError           ConnectionError         502
     └─ AuthenticationError     ConnectionError         502

An error without a status here has 500.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final, Literal

from serve_bridge.printable import nearest, printable, shown

__all__ = [
    "AuthenticationError",
    "BackendError",
    "BackendNotFound",
    "BackendOverloaded",
    "BackendStartError",
    "ConfigError",
    "DeadlineExceeded",
    "DeploymentError",
    "EndpointNotFound",
    "Executed",
    "InstanceClosed",
    "MethodNotExposed",
    "NotConnected",
    "ProtocolError",
    "ReplicaDied",
    "SerializationError",
    "ServeBridgeError",
]

NAMES_SHOWN = 20
NAMES_COMPARED: Final = 1000
"""Upper limit for the names among which the nearest one is looked for."""

Executed = Literal["no", "unknown"]
"""Whether the request's work ran: "no" is a proof, "unknown" is the absence of one."""


class ServeBridgeError(Exception):
    """Root of every error of the engine.

    Attributes:
        http_status: Status that the proxy and the adapters answer with when this error ends a request.
    """

    http_status: ClassVar[int] = 500


class ConfigError(ServeBridgeError, ValueError):
    """An option is unknown, of the wrong type or out of range; the message names it."""


class NameNotFound(ServeBridgeError, KeyError, ValueError):
    """What the two look-ups by name share; raised as one of them only."""

    http_status = 404
    kind: ClassVar[str] = "name"

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        names = tuple(sorted(known))
        super().__init__(name, names)  # all of them, or the error cannot be unpickled
        self.name: str = name
        self.known: tuple[str, ...] = names

    def __str__(self) -> str:  # a bare KeyError prints the repr of its argument
        if not self.known:
            return f"no {self.kind} {shown(self.name)}: the instance has no {self.kind}s yet"
        listed = ", ".join(self.known[:NAMES_SHOWN])
        if len(self.known) > NAMES_SHOWN:
            listed += f" and {len(self.known) - NAMES_SHOWN} more"
        near = nearest(self.name, self.known[:NAMES_COMPARED])
        return f"no {self.kind} {shown(self.name)}{near or '.'} Known: {listed}"


class EndpointNotFound(NameNotFound):
    """The call names an endpoint that nobody has created, or that was deleted."""

    kind = "endpoint"

    def __init__(self, endpoint: str, known: Iterable[str] = ()) -> None:
        super().__init__(endpoint, known)
        self.endpoint = endpoint


class BackendNotFound(NameNotFound):
    """The call names a backend that nobody has created, or that was deleted."""

    kind = "backend"

    def __init__(self, backend: str, known: Iterable[str] = ()) -> None:
        super().__init__(backend, known)
        self.backend = backend


class MethodNotExposed(ServeBridgeError, AttributeError):
    """The call names a method that the backend does not offer. Which ones it offers is told to nobody."""

    http_status = 404

    def __init__(self, backend: str, method: str) -> None:
        super().__init__(backend, method)
        self.backend: str = backend
        self.method: str = method

    def __str__(self) -> str:
        if self.method in ("", "__call__"):
            return f"backend {self.backend!r} has no `__call__`; name a method: handle.options(method_name=...)"
        return (
            f"backend {self.backend!r} exposes no method {shown(self.method)}; callable are `__call__` and "
            "the public methods of its class, or those that `exposed_methods` lists"
        )


class NothingStarted(ServeBridgeError):
    """Base of the errors which prove that the request was not started.

    Attributes:
        executed: "no". It is "unknown" when the error reaches the caller of user code which failed with it, since that
            code did run.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.executed: Executed = "no"


class BackendOverloaded(NothingStarted):
    """Every replica and the waiting line were full; nothing was started, so calling again later is safe."""

    http_status = 503


class DeadlineExceeded(ServeBridgeError, TimeoutError):
    """The request's time was up before its answer came.

    Attributes:
        executed: "no" if the request had provably not been started, else "unknown".
    """

    http_status = 504

    def __init__(self, message: str, executed: Executed = "unknown") -> None:
        super().__init__(message)  # a second argument would make OSError take the first for an errno
        self.executed: Executed = executed


CALL_HINT: Final = "handle.options(timeout_s=...) gives more time"
"""The way out for a call of a handle whose own time is up."""


def no_answer(endpoint: str, timeout_s: float, executed: Executed, hint: str = "") -> DeadlineExceeded:
    """Return the error for a request to *endpoint* that got no answer within *timeout_s*; *hint* is a way out."""
    said = f"endpoint {endpoint!r}: no answer within {round(max(timeout_s, 0), 3):g} s"
    ran = "nothing was started" if executed == "no" else "it may have run"
    return DeadlineExceeded(f"{said} ({ran}{'; ' + hint if hint else ''})", executed)


class ReplicaDied(ServeBridgeError, ConnectionError):
    """The replica stopped before it had answered.

    Attributes:
        executed: "no" if the request had provably not been started, else "unknown": then it may have run, and
            only the caller can know whether to send it again.
    """

    http_status = 502

    def __init__(self, message: str, executed: Executed = "unknown") -> None:
        super().__init__(message)  # as in DeadlineExceeded
        self.executed: Executed = executed


class BackendError(ServeBridgeError, RuntimeError):
    """User code raised an exception that cannot be rebuilt in the calling process.

    Attributes:
        type_name: Name of the exception's class in the replica.
        text: Its text. In `str` control characters are escapes, since frameworks log that.
        remote_traceback: The replica's traceback as text; empty if there is none. Shown below a printed
            traceback, but no part of `str`, which may end up in an answer to a client.
    """

    def __init__(self, type_name: str, text: str, remote_traceback: str = "") -> None:
        super().__init__(type_name, text, remote_traceback)
        self.type_name: str = type_name
        self.text: str = text
        self.remote_traceback: str = remote_traceback
        if remote_traceback:
            self.add_note(f"In the replica:\n{printable(remote_traceback, lines=True)}")

    def __str__(self) -> str:
        return f"the backend raised {printable(self.type_name)}: {printable(self.text, lines=True)}"


class BackendStartError(ServeBridgeError, RuntimeError):
    """A backend's replicas did not become ready; nothing of them is left running and the name is free again.

    Attributes:
        backend: Name of the backend.
        reason: What went wrong, in one sentence.
        remote_traceback: The replica's traceback as text; empty if there is none.
    """

    def __init__(self, backend: str, reason: str, remote_traceback: str = "") -> None:
        super().__init__(backend, reason, remote_traceback)
        self.backend: str = backend
        self.reason: str = reason
        self.remote_traceback: str = remote_traceback

    def __str__(self) -> str:
        text = f"backend {self.backend!r} did not start: {printable(self.reason, lines=True)}"
        if not self.remote_traceback:
            return text
        return f"{text}\nIn the replica:\n{printable(self.remote_traceback, lines=True)}"


class DeploymentError(ServeBridgeError, RuntimeError):
    """A deployment stopped at a change that failed; those before it stay, and the failed one has changed nothing.

    Attributes:
        failed: The change that failed, or those that are made in one step.
        reason: Why.
        done, left: The changes that were made before it, and those that were not begun.
    """

    def __init__(self, failed: str, reason: str, done: Iterable[str] = (), left: Iterable[str] = ()) -> None:
        self.failed: str = failed
        self.reason: str = reason
        self.done: tuple[str, ...] = tuple(done)
        self.left: tuple[str, ...] = tuple(left)
        super().__init__(failed, reason, self.done, self.left)  # all of them, or the error cannot be unpickled

    def __str__(self) -> str:
        return (
            f"stopped at: {self.failed}; done before: {', '.join(self.done) or 'nothing'}; "
            f"not begun: {', '.join(self.left) or 'nothing'}. {printable(self.reason, lines=True)}"
        )


class SerializationError(ServeBridgeError, TypeError):
    """A value cannot leave its process, or has no form of the kind asked for; the message names it."""


class NotConnected(NothingStarted, ConnectionError):
    """No instance could be reached; the message says where it was looked for."""

    http_status = 503


class InstanceClosed(NothingStarted, RuntimeError):
    """The client or instance was used after `shutdown`; `start` or `connect` gives a new one."""

    http_status = 503


UNAVAILABLE: Final = (BackendOverloaded, EndpointNotFound, InstanceClosed, NotConnected)
"""Errors for which an application answers 503 with `Retry-After`: what it needs is not there now, and may be later.

A missing endpoint is among them although its own status is 404: the URL belongs to the application, and caches would
keep a 404.
"""


class ProtocolError(ServeBridgeError, ConnectionError):
    """A peer broke the data plane's protocol; its connection was closed."""

    http_status = 502


class AuthenticationError(ServeBridgeError, ConnectionError):
    """A peer could not prove that it belongs to the instance, or a Ray cluster refused the token of this process."""

    http_status = 502


def failure_message(backend: str) -> str:
    """Return the template of a log record about a failure of *backend*; its argument is the id of the request.

    Error trackers group records by their template, so each backend has one of its own.
    """
    return f"backend {backend!r} failed".replace("%", "%%") + " (request %s)"
