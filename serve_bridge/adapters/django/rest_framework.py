"""A view of Django REST framework that forwards its requests. Import this module only if the framework is installed.

Rule 1: REST framework checks authentication, permissions, throttling and versioning before the request is forwarded.
Rule 2: an answer of user code passes unchanged, without renderers and content negotiation of REST framework.
Rule 3: a failure is an `APIException`, so the project's EXCEPTION_HANDLER and renderers answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponseBase
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.views import APIView

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute, RouteOptions
from serve_bridge.adapters.bridge.outcome import Outcome
from serve_bridge.adapters.django.forwarded_urls import CHECKS_CSRF
from serve_bridge.adapters.django.responses import response_of
from serve_bridge.adapters.django.views import ask, refuse_unnamed, without_transaction
from serve_bridge.errors import BackendError
from serve_bridge.forwarding.refusals import UploadBroken

__all__ = ["BridgeAPIView", "ForwardingFailed"]

_RAISED = 500
_TOLD = ("x-request-id", "x-serve-executed")


class ForwardingFailed(APIException):
    """A forwarded request got no answer of user code.

    Attributes:
        status_code: 400, 404, 413, 502, 503 or 504.
        wait: Seconds after which the client may retry; None if it is not known.
    """

    def __init__(self, outcome: Outcome) -> None:
        problem = json.loads(outcome.body)
        super().__init__(problem.get("detail") or problem.get("title"), "forwarding_failed")
        self.status_code: int = outcome.status
        retry_after = dict(outcome.text_headers).get("retry-after")
        self.wait: int | None = int(retry_after) if retry_after is not None else None


class BridgeAPIView(APIView):
    """A view that forwards its requests to an endpoint, after the checks of REST framework.

    The view forwards GET, POST, PUT, PATCH, DELETE and HEAD; REST framework answers OPTIONS. `http_method_names` limits
    the methods. A subclass may override a method, look at the request, and return `self.forward(request, **kwargs)`.

    Attributes:
        endpoint: Name of the endpoint.
        route_options: Options of the route; see `RouteOptions`. Paths in `context` begin with an attribute of Django's
            request. Its `user` and `auth` are those of REST framework.

    Example:
        ```
        class Digits(BridgeAPIView):
            endpoint = "digits"
            route_options = {"timeout_s": 5, "context": {"user_id": "user.pk"}}
            permission_classes = [IsAuthenticated]
            http_method_names = ["post", "options"]

        path("digits/", Digits.as_view())
        path("mood/", BridgeAPIView.as_view(endpoint="mood"))
        ```
    """

    endpoint: str = ""
    route_options: ClassVar[RouteOptions] = {}
    forwarded_route: ForwardedRoute | None = None

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Return the view.

        Raises:
            TypeError, ConfigError: The endpoint is missing, or an option is unknown or has a wrong value.
        """
        endpoint = initkwargs.get("endpoint", cls.endpoint)
        options = initkwargs.get("route_options", cls.route_options)
        route = ForwardedRoute(endpoint, options, where=f"{cls.__name__}: ")
        view: Any = super().as_view(**{**initkwargs, "forwarded_route": route})
        view.forwarded_route = route
        setattr(view, CHECKS_CSRF, True)  # SessionAuthentication checks it; other clients send no cookies
        found: Callable[..., HttpResponseBase] = without_transaction(view)
        return found

    def forward(self, request: Request, /, **path_params: Any) -> HttpResponseBase:
        """Forward *request* and return the answer of user code.

        Raises:
            ForwardingFailed: User code gave no answer.
            BackendError: User code raised an exception; the error has the remote traceback.
        """
        route = self.forwarded_route
        assert route is not None
        inner: HttpRequest = request._request
        outcome = ask(route, inner, path_params, sender=type(self))
        error = outcome.error
        passes = error is None or isinstance(error, BackendError | UploadBroken) or outcome.status == _RAISED
        if passes:
            response = response_of(outcome, route, inner)
            self.headers: dict[str, str] = {}  # Allow and Vary would describe an answer of REST framework
            return response
        self.headers |= {name: value for name, value in outcome.text_headers if name in _TOLD}
        raise ForwardingFailed(outcome) from error

    def _forwarded(self, request: Request, /, *unnamed: Any, **path_params: Any) -> HttpResponseBase:
        refuse_unnamed(unnamed)
        return self.forward(request, **path_params)

    get = post = put = patch = delete = _forwarded

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Choose a renderer for errors, also if the client does not accept it; the backend decides on other answers."""
        return super().perform_content_negotiation(request, force=True)
