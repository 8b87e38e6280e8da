"""A forwarded route: how the requests of one route of an app reach their endpoint.

Rule 1: a route decides, not a request: the backend's method, the time, which credentials and facts go along.
Rule 2: every option is declared once, in `RouteOptions`, for all frameworks; it is checked when the route is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypedDict

from serve_bridge.adapters.bridge.request_context import Context, compile_context
from serve_bridge.config import checks
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown


class RouteOptions(TypedDict, total=False):
    """The options of a forwarded route, the same in every framework.

    Attributes:
        method_name: Method of the backend to call instead of `__call__`.
        method_header: Let the request's X-SERVE-CALL-METHOD choose the method. Default: False.
        timeout_s: Seconds a request may take; past it the answer is 504. Default: the adapter's.
        timeout_header: Let the request's X-SERVE-TIMEOUT-S shorten that. Default: False.
        credentials: Send the headers Cookie and Authorization along; the app's own, so by default they stay.
        context: What the backend finds in `request.state` of what the app knows of the request: an allow-list of names,
            each with the dotted path to its value from the framework's request (`{"user_id": "user.pk"}`), or a
            function that is given that request and returns a mapping. Text, numbers, bool, None.
        max_body_bytes: Longest body that is forwarded; a longer one is answered 413. Default: the framework's limits.
    """

    method_name: str | None
    method_header: bool
    timeout_s: float | None
    timeout_header: bool
    credentials: bool
    context: Context | None
    max_body_bytes: int | None


def method_token(option: str, value: Any) -> str:
    """Return *value*, the name of a method.

    Raises:
        TypeError, ConfigError: It is not a name.
    """
    return checks.token(option, checks.text(option, value))


OPTION_CHECKS: Final[Mapping[str, checks.Check]] = {
    "method_name": checks.optional(method_token),
    "method_header": checks.flag,
    "timeout_s": checks.optional(checks.seconds()),
    "timeout_header": checks.flag,
    "credentials": checks.flag,
    "context": checks.optional(compile_context),
    "max_body_bytes": checks.optional(checks.whole_number(0, 1 << 62)),
}


class ForwardedRoute:
    """One route with its options, checked.

    Attributes:
        endpoint: Whom its requests are for.
        call_method: The method that is called, "" for `__call__`; None leaves it to the request's header.
        timeout_s: As the option; None is the adapter's default.
        timeout_header, credentials, max_body_bytes: As the options.
        context: Returns what goes along, given the framework's request; None if nothing does.
    """

    __slots__ = (
        *("call_method", "context", "credentials", "endpoint", "max_body_bytes", "timeout_header", "timeout_s"),
    )

    def __init__(self, endpoint: str, options: RouteOptions | None = None, *, where: str = "") -> None:
        """Check *options*; *where* precedes an option's name in messages.

        Raises:
            TypeError: An option is unknown, or *endpoint* no str.
            ConfigError: An option has a value that it cannot have.
        """
        given = dict(options or {})
        if not isinstance(endpoint, str) or not endpoint:
            raise TypeError(f"{where}endpoint must be the name of an endpoint, got {shown(endpoint)}")
        for name in given.keys() - OPTION_CHECKS.keys():
            near = "; methods are the framework's route's" if name == "methods" else nearest(name, OPTION_CHECKS)
            raise TypeError(f"{where}{name} is no option of a forwarded route{near}; known: {', '.join(OPTION_CHECKS)}")
        checked = {name: OPTION_CHECKS[name](where + name, value) for name, value in given.items()}
        chosen = checked.get("method_name")
        if chosen is not None and checked.get("method_header"):
            raise ConfigError(f"{where}method_name and method_header exclude each other; give one of them")
        self.endpoint = endpoint
        self.call_method: str | None = None if checked.get("method_header") else chosen or ""
        self.timeout_s: float | None = checked.get("timeout_s")
        self.timeout_header: bool = checked.get("timeout_header", False)
        self.credentials: bool = checked.get("credentials", False)
        self.context: Callable[[Any], Mapping[str, Any]] | None = checked.get("context")
        self.max_body_bytes: int | None = checked.get("max_body_bytes")

    def __repr__(self) -> str:
        return f"ForwardedRoute({self.endpoint!r})"


def forwarded_route_of(view: Any) -> ForwardedRoute | None:
    """Return the route that *view* forwards; None if it is another view.

    Forwarding views have it as their attribute `forwarded_route`, which `functools.wraps` passes on to decorators.
    """
    while view is not None:
        route = getattr(view, "forwarded_route", None)
        if isinstance(route, ForwardedRoute):
            return route
        view = getattr(view, "__wrapped__", None) or (view.func if isinstance(view, partial) else None)
    return None


SYNC_TIMEOUT_S: Final = 25.0
"""Default of a route in a worker that a server such as gunicorn kills when one request takes 30 s."""


ASYNC_TIMEOUT_S: Final = 60.0
