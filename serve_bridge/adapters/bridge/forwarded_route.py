"""A forwarded route: how requests of one route of an app are forwarded to an endpoint.

Rule 1: the route decides, not the request: about the method of the backend, the timeout, credentials and context.
Rule 2: every option is declared once, in `RouteOptions`, for all frameworks, and is checked when the route is made.
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
        timeout_s: Time limit of a request in seconds; a later answer is a 504. Default: the adapter's `timeout_s`.
        timeout_header: Let the request's X-SERVE-TIMEOUT-S shorten the timeout. Default: False.
        credentials: Forward the headers Cookie and Authorization. They belong to the app. Default: False.
        context: Facts about a request for `request.state` in the backend. Either an allow-list of names, each with the
            dotted path to its value from the framework's request (`{"user_id": "user.pk"}`). Or a function of the
            framework's request, which returns a mapping. Values are text, numbers, bool or None.
        max_body_bytes: Upper limit for a body in bytes; a longer body gets 413. Default: no limit of the route. Limits
            of the framework, the server and the app's middleware apply in any case.
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
        TypeError, ConfigError: *value* is not a name.
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
    """One route with its checked options.

    Attributes:
        endpoint: Name of the endpoint.
        call_method: The method of the backend, "" for `__call__`; None: the request's header chooses the method.
        timeout_s: The option; None: the default of the adapter.
        timeout_header, credentials, max_body_bytes: The options.
        context: Returns the facts for the backend, given the framework's request; None if there are none.
    """

    __slots__ = (
        *("call_method", "context", "credentials", "endpoint", "max_body_bytes", "timeout_header", "timeout_s"),
    )

    def __init__(self, endpoint: str, options: RouteOptions | None = None, *, where: str = "") -> None:
        """Check *options*. *where* is put before the name of an option in error messages.

        Raises:
            TypeError: An option is unknown, or *endpoint* is not a str.
            ConfigError: An option has a wrong value.
        """
        given = dict(options or {})
        if not isinstance(endpoint, str) or not endpoint:
            raise TypeError(f"{where}endpoint must be the name of an endpoint, got {shown(endpoint)}")
        for name in given.keys() - OPTION_CHECKS.keys():
            near = (
                "; the framework's own route names the methods" if name == "methods" else nearest(name, OPTION_CHECKS)
            )
            raise TypeError(
                f"{where}{name} is not an option of a forwarded route{near}; known: {', '.join(OPTION_CHECKS)}"
            )
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
    """Return the route of *view*; None if *view* does not forward.

    A forwarding view has an attribute `forwarded_route`. Decorators that use `functools.wraps` copy it.
    """
    while view is not None:
        route = getattr(view, "forwarded_route", None)
        if isinstance(route, ForwardedRoute):
            return route
        view = getattr(view, "__wrapped__", None) or (view.func if isinstance(view, partial) else None)
    return None


SYNC_TIMEOUT_S: Final = 25.0
"""Default timeout in seconds of a route in a thread; gunicorn kills a worker whose request takes 30 s."""
ASYNC_TIMEOUT_S: Final = 60.0
"""Default timeout in seconds of a route on an event loop."""
