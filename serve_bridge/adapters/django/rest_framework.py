"""A view of Django REST framework that forwards its requests; imported only where that is installed.

Rule 1: authentication, permissions, throttling and versioning are REST framework's, and come before the forwarding.
Rule 2: an answer of user code passes as it is: REST framework renders and negotiates nothing of it.
Rule 3: what fails on the way is an `APIException`, so that the project's EXCEPTION_HANDLER and renderers answer.
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
        wait: Seconds after which the client may try again; None: nothing is known.
    """

    def __init__(self, outcome: Outcome) -> None:
        problem = json.loads(outcome.body)
        super().__init__(problem.get("detail") or problem.get("title"), "forwarding_failed")
        self.status_code: int = outcome.status
        retry_after = dict(outcome.text_headers).get("retry-after")
        self.wait: int | None = int(retry_after) if retry_after is not None else None


class BridgeAPIView(APIView):
    """Forwards its requests to an endpoint, once REST framework lets them in.

    ::

        class Digits(BridgeAPIView):
            endpoint = "digits"
            route_options = {"timeout_s": 5, "context": {"user_id": "user.pk"}}
            permission_classes = [IsAuthenticated]
            http_method_names = ["post", "options"]

        path("digits/", Digits.as_view())
        path("mood/", BridgeAPIView.as_view(endpoint="mood"))

    GET, POST, PUT, PATCH, DELETE and HEAD are forwarded, OPTIONS is answered by REST framework; `http_method_names`
    limits them. A method that is overridden may look at the request and then return `self.forward(request, **kwargs)`.

    Attributes:
        endpoint: Name of the endpoint.
        route_options: Options of the route, see `RouteOptions`. `context` begins at Django's request, whose `user` and
            `auth` are those that REST framework has found.
    """

    endpoint: str = ""
    route_options: ClassVar[RouteOptions] = {}
    forwarded_route: ForwardedRoute | None = None

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Return the view.

        Raises:
            TypeError, ConfigError: The endpoint is missing; or an option is unknown, or has a bad value.
        """
        endpoint = initkwargs.get("endpoint", cls.endpoint)
        options = initkwargs.get("route_options", cls.route_options)
        route = ForwardedRoute(endpoint, options, where=f"{cls.__name__}: ")
        view: Any = super().as_view(**{**initkwargs, "forwarded_route": route})
        view.forwarded_route = route
        setattr(view, CHECKS_CSRF, True)  # by SessionAuthentication; other clients send no cookies
        found: Callable[..., HttpResponseBase] = without_transaction(view)
        return found

    def forward(self, request: Request, /, **path_params: Any) -> HttpResponseBase:
        """Forward *request* and return the answer of user code.

        Raises:
            ForwardingFailed: There is no such answer.
            BackendError: User code raised; it has the remote traceback.
        """
        route = self.forwarded_route
        assert route is not None
        inner: HttpRequest = request._request
        outcome = ask(route, inner, path_params, sender=type(self))
        error = outcome.error
        passes = error is None or isinstance(error, BackendError | UploadBroken) or outcome.status == _RAISED
        if passes:
            response = response_of(outcome, route, inner)
            self.headers: dict[str, str] = {}  # Allow and Vary describe answers of REST framework
            return response
        self.headers |= {name: value for name, value in outcome.text_headers if name in _TOLD}
        raise ForwardingFailed(outcome) from error

    def _forwarded(self, request: Request, /, *unnamed: Any, **path_params: Any) -> HttpResponseBase:
        refuse_unnamed(unnamed)
        return self.forward(request, **path_params)

    get = post = put = patch = delete = _forwarded

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Choose a renderer for errors; what the client accepts is for the backend to meet."""
        return super().perform_content_negotiation(request, force=True)
