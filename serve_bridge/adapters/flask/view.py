"""The view of a forwarded route, and the Flask responses and exceptions for its outcomes.

Rule 1: an answer of user code is the response. An exception of user code, and any other failure, is raised here, so the
        app's error handling decides what the client sees.
"""

from __future__ import annotations

import itertools
from typing import Any, Final, cast

from flask import Request, Response, current_app, g, request, session
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, ServiceUnavailable, default_exceptions

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.outcome import Outcome, refused, report
from serve_bridge.adapters.bridge.request_context import Paths
from serve_bridge.adapters.environ import scope_of
from serve_bridge.adapters.flask.body import body_of
from serve_bridge.adapters.flask.current_bridge import current_bridge, running_request
from serve_bridge.errors import ConfigError, ServeBridgeError

REQUEST_ID: Final = "serve_bridge.request_id"
"""Key of `request.environ`: the id of a forwarded request, as in the log."""

_numbers = itertools.count(1)


class Web:
    """The object for `context` functions and paths: Flask's `request`, `session` and `g`."""

    request = request
    session = session
    g = g


_web = Web()


class ForwardingView:
    """A view of one forwarded route.

    Attributes:
        forwarded_route: The route. Decorators that use `functools.wraps` copy this attribute.
    """

    def __init__(self, route: ForwardedRoute, name: str) -> None:
        """Make a view of *route* called *name*.

        Raises:
            ConfigError: A path of the route's context does not begin with `request`, `session` or `g`.
        """
        if isinstance(route.context, Paths) and (unknown := route.context.roots - vars(Web).keys()):
            raise ConfigError(
                f"the context of the route to {route.endpoint!r} has a path that begins with {min(unknown)!r}; "
                "a path begins with request, session or g"
            )
        self.forwarded_route = route
        self.__name__ = self.__qualname__ = name
        # Extensions identify a view by module and name. Each view has a module name of its own, so that an exemption
        # from CSRF does not apply to another view of the same name.
        self.__module__ = f"{__name__}.{next(_numbers)}"

    def __call__(self, **path_params: Any) -> Response:
        """Forward the current request.

        Raises:
            BackendError: User code raised.
            HTTPException: The request failed with 400, 404, 413, 502, 503 or 504.
        """
        current: Request = cast(Any, request)._get_current_object()
        scope = scope_of(current.environ)
        scope["method"] = current.method  # in upper case, as other views of the app see it
        body = body_of(current, scope)
        outcome = current_bridge().ask(self.forwarded_route, scope, path_params, body, _web)
        current.environ[REQUEST_ID] = outcome.request_id
        if outcome.error is None:
            return _response(outcome, current.method)
        raise _exception(outcome, outcome.error, current.method)


def answer_unavailable(error: ServeBridgeError) -> Any:
    """Handle an error of `errors.UNAVAILABLE` that a view has not caught; an error handler of the app.

    The app's own handler of a base class, such as `ServeBridgeError`, takes precedence.
    """
    own = current_app.error_handler_spec[None][None]
    for kind in type(error).__mro__:
        handler = own.get(kind) if issubclass(kind, ServeBridgeError) else None
        if handler not in (None, answer_unavailable):
            return current_app.ensure_sync(cast(Any, handler))(error)
    outcome = refused(error, in_view=True)
    request.environ[REQUEST_ID] = outcome.request_id
    return current_app.handle_http_exception(cast(HTTPException, _exception(outcome, error, request.method)))


def show_request_id(response: Response) -> Response:
    """Add X-Request-Id to an answer, also to an error page or an answer from a cache; an `after_request` of the app.

    The response of the view itself has no such header: a cache around the view would repeat the id of one request.
    """
    request_id = request.environ.get(REQUEST_ID)
    if request_id is None and _is_forwarded(request.endpoint):
        request_id = running_request()
    if request_id is not None:
        response.headers.setdefault("X-Request-Id", request_id)
    return response


def _is_forwarded(endpoint: str | None) -> bool:
    """Return whether the view of *endpoint*, which decorators may wrap, forwards its requests."""
    return hasattr(current_app.view_functions.get(endpoint or ""), "forwarded_route")


def _exception(outcome: Outcome, error: Exception, method: str) -> Exception:
    kind: type[HTTPException] | None = default_exceptions.get(outcome.status)
    if outcome.status == 500 or kind is None:
        return error  # Flask logs and signals it, and its debugger shows it
    report(outcome)
    response = _response(outcome, method)
    if kind is ServiceUnavailable:
        raised: HTTPException = ServiceUnavailable(
            response=response, retry_after=response.headers.get("retry-after", type=int)
        )
    else:
        raised = kind(response=response)
    raised.__cause__ = error
    return raised


def _response(outcome: Outcome, method: str) -> Response:
    headers = Headers(outcome.text_headers)
    del headers["x-request-id"]  # `show_request_id` adds it
    has_type = "content-type" in headers
    body = outcome.body
    if method == "HEAD":
        if not isinstance(body, bytes):
            body.close()
        body = None  # for bytes, Flask would set Content-Length to 0 in place of the length for GET
    response = current_app.response_class(body, outcome.status, headers)
    if not has_type:
        del response.headers["content-type"]  # the default type of Flask does not describe the backend's body
    if method == "HEAD":
        response.automatically_set_content_length = False  # only the backend knows the length for GET
    return response
