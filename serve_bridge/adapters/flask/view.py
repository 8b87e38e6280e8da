"""A view that forwards its requests, and what Flask makes of their answers.

Rule 1: what user code answers is the response; what it raises, and what fails on the way, is raised here, so that the
        app's own error handling decides what the client sees.
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
"""Key in `request.environ` of the id under which the log knows a request that was forwarded."""

_numbers = itertools.count(1)


class Web:
    """What `context` sees of a request: `request`, `session` and `g`, which are Flask's own."""

    request = request
    session = session
    g = g


_web = Web()


class ForwardingView:
    """A view of one forwarded route.

    Attributes:
        forwarded_route: The route; it stays with the view inside decorators that use `functools.wraps`.
    """

    def __init__(self, route: ForwardedRoute, name: str) -> None:
        """Take a route and the view's name.

        Raises:
            ConfigError: A path of the route's context begins with nothing that `Web` has.
        """
        if isinstance(route.context, Paths) and (unknown := route.context.roots - vars(Web).keys()):
            raise ConfigError(
                f"the context of the route to {route.endpoint!r} has a path that begins with {min(unknown)!r}; "
                "a path begins with request, session or g"
            )
        self.forwarded_route = route
        self.__name__ = self.__qualname__ = name
        # Extensions know a view by module and name: exempting one from CSRF must not exempt another of its name.
        self.__module__ = f"{__name__}.{next(_numbers)}"

    def __call__(self, **path_params: Any) -> Response:
        """Forward the current request.

        Raises:
            BackendError: User code raised.
            HTTPException: The request failed on the way: 400, 404, 413, 502, 503, 504.
        """
        current: Request = cast(Any, request)._get_current_object()
        scope = scope_of(current.environ)
        body = body_of(current, scope)
        outcome = current_bridge().ask(self.forwarded_route, scope, path_params, body, _web)
        current.environ[REQUEST_ID] = outcome.request_id
        if outcome.error is None:
            return _response(outcome, current.method)
        raise _exception(outcome, outcome.error, current.method)


def answer_unavailable(error: ServeBridgeError) -> Any:
    """Answer for a view that has not caught one of `errors.UNAVAILABLE`; an error handler of the app."""
    outcome = refused(error)
    request.environ[REQUEST_ID] = outcome.request_id
    return current_app.handle_http_exception(cast(HTTPException, _exception(outcome, error, request.method)))


def show_request_id(response: Response) -> Response:
    """Name the request in its answer, also in an error page or an answer from a cache; an `after_request` of the app.

    A view's own response does not have the header: a cache around the view would repeat the first request's id.
    """
    request_id = request.environ.get(REQUEST_ID)
    if request_id is None and _is_forwarded(request.endpoint):
        request_id = running_request()
    if request_id is not None:
        response.headers.setdefault("X-Request-Id", request_id)
    return response


def _is_forwarded(endpoint: str | None) -> bool:
    """Return whether the view of *endpoint* forwards, be it inside of decorators."""
    return hasattr(current_app.view_functions.get(endpoint or ""), "forwarded_route")


def _exception(outcome: Outcome, error: Exception, method: str) -> Exception:
    kind: type[HTTPException] | None = default_exceptions.get(outcome.status)
    if outcome.status == 500 or kind is None:
        return error  # an unexpected one: logged, signalled, shown by the debugger
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
        body = None  # of bytes Flask would write the length, 0, over that of the answer to GET
    response = current_app.response_class(body, outcome.status, headers)
    if not has_type:
        del response.headers["content-type"]  # Flask's default is for what Flask's views return
    if method == "HEAD":
        response.automatically_set_content_length = False  # only the backend knows that of the answer to GET
    return response
