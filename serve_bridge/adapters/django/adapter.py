"""The entry points of the Django adapter: applications whose only routes are forwarded ones.

Rule 1: the settings of the process apply, so a project's middleware runs. A process without settings gets minimal ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import django
from django.apps import apps
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.urls import URLPattern, register_converter
from django.urls.converters import StringConverter

from serve_bridge.adapters import RouteSpec, translate
from serve_bridge.adapters.django.current_bridge import using
from serve_bridge.adapters.django.middleware import ServeBridgeMiddleware
from serve_bridge.adapters.django.routes import url_patterns

if TYPE_CHECKING:
    from serve_bridge.adapters import Bridge

_SYNTAX: Final = {
    **{converter: f"<{converter}:{{}}>" for converter in ("str", "int", "path", "uuid")},
    "float": "<serve_bridge_float:{}>",
}


class _FloatConverter(StringConverter):
    """The converter `float` of Starlette, which Django lacks."""

    regex = r"[0-9]+(?:\.[0-9]+)?"

    def to_python(self, value: str) -> float:
        return float(value)


register_converter(_FloatConverter, "serve_bridge_float")


class _URLs:
    """A URLconf."""

    def __init__(self, patterns: list[URLPattern]) -> None:
        self.urlpatterns = patterns


class _Handler:
    """The common part of the handlers for WSGI and ASGI: URLs and a bridge of the application's own."""

    _middleware_chain: Any

    def __init__(self, bridge: Bridge, urls: _URLs) -> None:
        self._bridge = bridge
        self._urls = urls
        super().__init__()

    def load_middleware(self, is_async: bool = False) -> None:
        """Put `ServeBridgeMiddleware` before the middleware of the settings, so that error pages have request ids."""
        super().load_middleware(is_async=is_async)  # type: ignore[misc]
        self._middleware_chain = ServeBridgeMiddleware(self._middleware_chain)


class _WSGIApplication(_Handler, WSGIHandler):
    def request_class(self, environ: Any) -> Any:
        request = WSGIHandler.request_class(environ)
        request.urlconf = self._urls
        return request

    def __call__(self, environ: Any, start_response: Any) -> Any:
        with using(self._bridge):
            return super().__call__(environ, start_response)


class _ASGIApplication(_Handler, ASGIHandler):
    def request_class(self, scope: Any, body: Any) -> Any:
        request = ASGIHandler.request_class(scope, body)
        request.urlconf = self._urls
        weakref.finalize(request, body.close)  # Django does not close it if an answer breaks off
        return request

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # Django answers HTTP only
            return
        with using(self._bridge):
            await super().__call__(scope, receive, send)


class _Adapter:
    """An adapter, for its entry point; see `serve_bridge.adapters.Adapter`."""

    def __init__(self, name: str, interface: Literal["asgi", "wsgi"]) -> None:
        self.name = name
        self.interface = interface

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Callable[..., Any]:
        """Return a handler whose URLs are *routes*, without CSRF protection."""
        if not settings.configured:
            settings.configure(ALLOWED_HOSTS=["*"], INSTALLED_APPS=["serve_bridge.adapters.django"], ROOT_URLCONF=())
        if not apps.ready:
            django.setup()
        is_async = self.interface == "asgi"
        urls = _URLs(url_patterns(map(_translated, routes), use_async=is_async))
        return _ASGIApplication(bridge, urls) if is_async else _WSGIApplication(bridge, urls)


def _translated(route: RouteSpec) -> RouteSpec:
    pattern = translate(route.pattern, _SYNTAX).removeprefix("/")
    return RouteSpec(pattern, route.endpoint, route.methods, route.options, {"csrf_exempt": True})


ADAPTER: Final = _Adapter("django", "wsgi")
ASGI_ADAPTER: Final = _Adapter("django-asgi", "asgi")
