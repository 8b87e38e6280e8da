"""The routes of SERVE_BRIDGE["ROUTES"], for `path("api/", include("serve_bridge.adapters.django.urls"))`.

`reverse("serve_bridge:<name>")` finds a route. Its name is the key `name`, otherwise the name of the endpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, get_resolver

from serve_bridge.adapters.django.routes import NAMESPACE, url_patterns
from serve_bridge.adapters.django.settings import on_change, sound_options

app_name = NAMESPACE
urlpatterns: list[URLPattern] = []


def _read() -> None:
    urlpatterns.clear()
    with suppress(ImproperlyConfigured):  # the system checks report a wrong pattern
        chosen = sound_options()
        urlpatterns.extend(url_patterns(chosen.routes, use_async=chosen.use_async))


@on_change
def reload() -> None:
    """Read the routes again, also for URLconfs that include this module."""
    _read()
    if hasattr(settings, "ROOT_URLCONF"):
        for resolver in _including(get_resolver()):
            # A resolver caches patterns for `reverse`, and has no method to clear that cache.
            resolver.__init__(
                resolver.pattern, resolver.urlconf_name, resolver.default_kwargs, resolver.app_name, resolver.namespace
            )


def _including(resolver: URLResolver) -> Iterator[URLResolver]:
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            if each.urlconf_module is sys.modules[__name__]:
                yield each
            else:
                yield from _including(each)


_read()
