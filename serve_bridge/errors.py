"""The errors of the engine: one tree, with one HTTP status for each.

Rule 1: each leaf is also the builtin that users already catch, so `except ValueError` works.
Rule 2: an error keeps all its fields when it is pickled, because most errors are raised in one process and caught in
    another.
Rule 3: `str` tells what happened and what to do. It never contains a key or the value of an argument.

    ServeBridgeError
     ├─ ConfigError             ValueError
     ├─ EndpointNotFound        KeyError, ValueError    404   executed: no
     ├─ BackendNotFound         KeyError, ValueError    404   executed: no
     ├─ MethodNotExposed        AttributeError          404   executed: no
     ├─ BackendOverloaded                               503   executed: no
     ├─ DeadlineExceeded        TimeoutError            504   executed: no or unknown
     ├─ ReplicaDied             ConnectionError         502   executed: no or unknown
     ├─ BackendError            RuntimeError
     ├─ BackendStartError       RuntimeError
     ├─ DeploymentError         RuntimeError
     ├─ SerializationError      TypeError
     ├─ NotConnected            ConnectionError         503   executed: no
     ├─ ControlPlaneLost        ConnectionError         503   executed: no
     ├─ InstanceClosed          RuntimeError            503   executed: no
     ├─ ProtocolError           ConnectionError         502   executed: unknown
     ├─ NotAllowed              PermissionError
     └─ AuthenticationError     ConnectionError         502   executed: no

Errors without a status in this list have 500. If user code fails with an error of this list, `executed` is "unknown"
for the caller of that code, because the code did run.
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
    "ControlPlaneLost",
    "DeadlineExceeded",
    "DeploymentError",
    "EndpointNotFound",
    "Executed",
    "InstanceClosed",
    "MethodNotExposed",
    "NotAllowed",
    "NotConnected",
    "ProtocolError",
    "ReplicaDied",
    "SerializationError",
    "ServeBridgeError",
]

NAMES_SHOWN: Final = 20
"""Upper limit for the names that an error lists."""
NAMES_COMPARED: Final = 1000
"""Upper limit for the names among which an error searches the nearest one."""

Executed = Literal["no", "unknown"]
"""Whether the request ran: "no" if it provably did not start; otherwise "unknown"."""


class ServeBridgeError(Exception):
    """Root of all errors of the engine.

    Attributes:
        http_status: Status of the answer if this error ends a request.
    """

    http_status: ClassVar[int] = 500


class ConfigError(ServeBridgeError, ValueError):
    """An option is unknown, has the wrong type or is out of range. The message names it."""


class NothingStarted(ServeBridgeError):
    """Base of the errors which prove that the request did not start.

    Attributes:
        executed: "no". If user code fails with such an error, it is "unknown" for the caller of that code, because the
            code did run.
    """

    executed: Executed = "no"


class NameNotFound(NothingStarted, KeyError, ValueError):
    """The base of the two errors for unknown names. It is never raised itself."""

    http_status = 404
    kind: ClassVar[str] = "name"

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        names = tuple(sorted(known))
        super().__init__(name, names)  # all arguments, because unpickling needs them
        self.name: str = name
        self.known: tuple[str, ...] = names

    def __str__(self) -> str:  # because KeyError prints the repr of its argument
        if not self.known:
            return f"no {self.kind} {shown(self.name)}: the instance has no {self.kind}s yet"
        listed = ", ".join(self.known[:NAMES_SHOWN])
        if len(self.known) > NAMES_SHOWN:
            listed += f" and {len(self.known) - NAMES_SHOWN} more"
        near = nearest(self.name, self.known[:NAMES_COMPARED])
        return f"no {self.kind} {shown(self.name)}{near or '.'} Known: {listed}"


class EndpointNotFound(NameNotFound):
    """The call names an endpoint that does not exist: it was never created, or it was deleted."""

    kind = "endpoint"

    def __init__(self, endpoint: str, known: Iterable[str] = ()) -> None:
        super().__init__(endpoint, known)
        self.endpoint = endpoint


class BackendNotFound(NameNotFound):
    """The call names a backend that does not exist: it was never created, or it was deleted."""

    kind = "backend"

    def __init__(self, backend: str, known: Iterable[str] = ()) -> None:
        super().__init__(backend, known)
        self.backend = backend


class MethodNotExposed(NothingStarted, AttributeError):
    """The call names a method that the backend does not expose. The error does not list the exposed methods."""

    http_status = 404

    def __init__(self, backend: str, method: str) -> None:
        super().__init__(backend, method)
        self.backend: str = backend
        self.method: str = method

    def __str__(self) -> str:
        if self.method in ("", "__call__"):
            return f"backend {self.backend!r} has no `__call__`; name a method: handle.options(method_name=...)"
        return (
            f"backend {self.backend!r} exposes no method {shown(self.method)}; a call can use `__call__` and the "
            "public methods of its class, or the methods in `exposed_methods`"
        )


class BackendOverloaded(NothingStarted):
    """All replicas and the queue were full. The request was not started, so a later retry is safe."""

    http_status = 503


class DeadlineExceeded(ServeBridgeError, TimeoutError):
    """The request got no answer before its deadline.

    Attributes:
        executed: "no" if the request provably did not start; otherwise "unknown".
    """

    http_status = 504

    def __init__(self, message: str, executed: Executed = "unknown") -> None:
        super().__init__(message)  # only one argument, because OSError takes the first of two as an errno
        self.executed: Executed = executed


CALL_HINT: Final = "handle.options(timeout_s=...) gives more time"
"""The remedy in the error for a call of a handle that has reached its own timeout."""


def no_answer(endpoint: str, timeout_s: float, executed: Executed, hint: str = "") -> DeadlineExceeded:
    """Return the error for a request to *endpoint* without an answer within *timeout_s*; *hint* is a remedy."""
    said = f"endpoint {endpoint!r}: no answer within {round(max(timeout_s, 0), 3):g} s"
    ran = "nothing was started" if executed == "no" else "it may have run"
    return DeadlineExceeded(f"{said} ({ran}{'; ' + hint if hint else ''})", executed)


class ReplicaDied(ServeBridgeError, ConnectionError):
    """The replica stopped before it answered.

    Attributes:
        executed: "no" if the request provably did not start; otherwise "unknown". An unknown request may have run, so
            only the caller can decide about a retry.
    """

    http_status = 502

    def __init__(self, message: str, executed: Executed = "unknown") -> None:
        super().__init__(message)  # as in DeadlineExceeded
        self.executed: Executed = executed


class BackendError(ServeBridgeError, RuntimeError):
    """User code raised an exception that cannot be rebuilt in the calling process.

    Attributes:
        type_name: Name of the exception's class in the replica.
        text: Text of the exception. `str` has escapes instead of its control characters, because frameworks log `str`.
        remote_traceback: The replica's traceback as text; empty if there is none. Python prints it below a printed
            traceback. It is not part of `str`, because a framework may send `str` to a client.
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
    """The replicas of a backend did not become ready. All of them were stopped, and the name is free again.

    Attributes:
        backend: Name of the backend.
        reason: The reason in one sentence.
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
    """A deployment stopped at a failed change. Earlier changes stay, and the failed one has changed nothing.

    Attributes:
        failed: The failed change, or the failed changes if one step makes several.
        reason: The reason.
        done: The changes made before.
        left: The changes not begun.
    """

    def __init__(self, failed: str, reason: str, done: Iterable[str] = (), left: Iterable[str] = ()) -> None:
        self.failed: str = failed
        self.reason: str = reason
        self.done: tuple[str, ...] = tuple(done)
        self.left: tuple[str, ...] = tuple(left)
        super().__init__(failed, reason, self.done, self.left)  # all arguments, because unpickling needs them

    def __str__(self) -> str:
        return (
            f"stopped at: {self.failed}; done before: {', '.join(self.done) or 'nothing'}; "
            f"not begun: {', '.join(self.left) or 'nothing'}. {printable(self.reason, lines=True)}"
        )


class SerializationError(ServeBridgeError, TypeError):
    """A value cannot leave its process, or cannot be encoded in the requested form. The message names it."""


class NotConnected(NothingStarted, ConnectionError):
    """No instance could be reached. The message tells where the client has searched."""

    http_status = 503


class ControlPlaneLost(NothingStarted, ConnectionError):
    """Ray's control plane (the GCS) does not answer the controller, so the instance cannot be changed now.

    Requests are still served. The change has not been made; try again once the control plane is back.
    """

    http_status = 503


class InstanceClosed(NothingStarted, RuntimeError):
    """The client or instance was used after `shutdown`. `start` or `connect` returns a new client."""

    http_status = 503


UNAVAILABLE: Final = (BackendOverloaded, EndpointNotFound, InstanceClosed, NotConnected)
"""Errors for which a web application answers 503 with `Retry-After`, because a later request may succeed.

They include a missing endpoint, whose own status is 404. The URL belongs to the application, and caches would keep a
404.
"""


class ProtocolError(ServeBridgeError, ConnectionError):
    """A peer broke the protocol of the data plane, so its connection was closed.

    Attributes:
        executed: "unknown": the request may have run before.
    """

    http_status = 502
    executed: Executed = "unknown"


class NotAllowed(ServeBridgeError, PermissionError):
    """This process has a key for a weaker role. The message names the role that the call needs, and its key file."""


class AuthenticationError(NothingStarted, ConnectionError):
    """A peer could not prove its membership in the instance, or a Ray cluster refused the token of this process."""

    http_status = 502


def failure_message(backend: str) -> str:
    """Return the template of a log record about a failure of *backend*; its argument is the id of the request.

    Error trackers group records by their template, so each backend has one of its own.
    """
    return f"backend {backend!r} failed".replace("%", "%%") + " (request %s)"
