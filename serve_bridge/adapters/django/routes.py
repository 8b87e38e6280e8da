"""The routes in SERVE_BRIDGE["ROUTES"] as Django's own URL patterns.

Rule 1: a route is a pattern of `path` with a view, so everything that Django does with URLs and views works.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, clear_url_caches, get_resolver, include, path
from django.views.decorators.http import require_http_methods

from serve_bridge.adapters.bridge.patterns import refuse_braces
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.adapters.django.settings import on_change, options
from serve_bridge.adapters.django.views import abridge_view, bridge_view
from serve_bridge.errors import ConfigError

NAMESPACE: Final = "serve_bridge"
_HANDLERS: Final = ("handler400", "handler403", "handler404", "handler500")


def url_patterns(specs: Iterable[RouteSpec], *, use_async: bool) -> list[URLPattern]:
    """Return the URL patterns of *specs*.

    Raises:
        ImproperlyConfigured: A pattern is not a path that Django can compile.
    """
    return [path(_pattern(spec), _view(spec, use_async), name=spec.extra.get("name", spec.endpoint)) for spec in specs]


def _pattern(spec: RouteSpec) -> str:
    try:
        refuse_braces(spec.pattern)
    except ConfigError as error:
        raise ImproperlyConfigured(str(error)) from None
    return spec.pattern


def _view(spec: RouteSpec, use_async: bool) -> Any:
    make = abridge_view if use_async else bridge_view
    view: Any = make(spec.endpoint, csrf_exempt=spec.extra.get("csrf_exempt", False), **spec.options)
    if spec.methods is not None:
        view = require_http_methods([*spec.methods, *(["HEAD"] if "GET" in spec.methods else [])])(view)
    for decorate in reversed(spec.extra.get("decorators", ())):
        view = decorate(view)
    return view


class RoutedURLs:
    """A URLconf with the routes before the URLs of another URLconf, and with the error handlers of that one."""

    def __init__(self, base: Any, routes: list[URLPattern]) -> None:
        self._base = base
        root = get_resolver(base)
        # Its patterns are copied, not included, because `i18n_patterns` must be in a root URLconf.
        self.urlpatterns = [path("", include((routes, NAMESPACE))), *root.url_patterns]
        for name in _HANDLERS:
            handler = getattr(root.urlconf_module, name, None)
            if handler is not None:
                setattr(self, name, handler)

    def __str__(self) -> str:  # Django's page for a 404 shows it if DEBUG is on
        return str(getattr(self._base, "__name__", self._base))


@cache
def routed_urls(base: Any, use_async: bool) -> RoutedURLs | None:
    """Return a URLconf with the routes of the settings before those of *base*; None if the settings have no routes.

    Raises:
        ConfigError, TypeError: The setting SERVE_BRIDGE is wrong.
        ImproperlyConfigured: A pattern is not a path that Django can compile.
    """
    specs = options().routes
    return RoutedURLs(base, url_patterns(specs, use_async=use_async)) if specs else None


@on_change
def forget() -> None:
    """Drop the cached URLconfs, so that they are made again from the new settings."""
    routed_urls.cache_clear()
    clear_url_caches()  # it caches the resolvers of the old URLconfs
