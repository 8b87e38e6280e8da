"""The URLs of a project that lead to forwarded views, wherever the URLconf includes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import getclosurevars, isfunction
from typing import Any, NamedTuple

from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute, forwarded_route_of

ROUTES_URLCONF = "serve_bridge.adapters.django.urls"
"""The URLconf of the routes in the setting."""


CHECKS_CSRF = "serve_bridge_checks_csrf"
"""Attribute of a view whose own framework checks for CSRF, so that Django does not."""


class ForwardedURL(NamedTuple):
    """One URL pattern that leads to a forwarded view.

    Attributes:
        path: The pattern, after the patterns of the URLconfs that include it.
        route: The route of the view.
        csrf_exempt: Whether the view accepts unsafe requests without a CSRF token.
        methods: The HTTP methods of the view, as far as Django's decorators limit them; None: every method.
        has_unnamed_groups: Whether Django calls the view with positional arguments.
        is_listed: Whether the pattern comes from `SERVE_BRIDGE["ROUTES"]`, by an include.
    """

    path: str
    route: ForwardedRoute
    csrf_exempt: bool
    methods: frozenset[str] | None
    has_unnamed_groups: bool
    is_listed: bool


def forwarded_urls() -> list[ForwardedURL]:
    """Return the URL patterns of the project that lead to forwarded views.

    Raises:
        ImproperlyConfigured, ImportError: The URLconf cannot be loaded.
    """
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    return list(_found(get_resolver().url_patterns, ()))


def are_routes_included() -> bool:
    """Return whether the project's URLs include the routes of the setting."""
    return bool(getattr(settings, "ROOT_URLCONF", None)) and _includes_routes(get_resolver().url_patterns)


def _includes_routes(patterns: Iterable[Any]) -> bool:
    resolvers = [each for each in patterns if isinstance(each, URLResolver)]
    return any(_is_of_routes(each) or _includes_routes(each.url_patterns) for each in resolvers)


def _is_of_routes(resolver: URLResolver) -> bool:
    return getattr(resolver.urlconf_module, "__name__", None) == ROUTES_URLCONF


def _found(patterns: Iterable[Any], above: tuple[URLResolver, ...]) -> Iterator[ForwardedURL]:
    for each in patterns:
        if isinstance(each, URLResolver):
            yield from _found(each.url_patterns, (*above, each))
        elif isinstance(each, URLPattern) and (route := forwarded_route_of(each.callback)) is not None:
            yield ForwardedURL(
                "".join(str(part.pattern) for part in (*above, each)),
                route,
                getattr(each.callback, "csrf_exempt", False) and not hasattr(each.callback, CHECKS_CSRF),
                _methods_of(each.callback),
                _has_unnamed_groups(each, above),
                any(map(_is_of_routes, above)),
            )


def _has_unnamed_groups(url: URLPattern, above: Iterable[URLResolver]) -> bool:
    """Return whether Django passes positional values: in its `resolve`, a named value hides unnamed ones before it."""
    if _is_unnamed(url):
        return True
    has_names = _has_names(url) or bool(url.default_args)
    for resolver in reversed([*above]):
        has_names = has_names or _has_names(resolver) or bool(resolver.default_kwargs)
        if _is_unnamed(resolver) and not has_names:
            return True
    return False


def _is_unnamed(part: URLPattern | URLResolver) -> bool:
    regex = getattr(part.pattern, "regex", None)
    return regex is not None and regex.groups > 0 and not regex.groupindex


def _has_names(part: URLPattern | URLResolver) -> bool:
    regex = getattr(part.pattern, "regex", None)
    return regex is not None and bool(regex.groupindex)


def _methods_of(view: Any) -> frozenset[str] | None:
    """Return the methods to which decorators such as `require_POST` limit *view*; None if they do not."""
    while view is not None:
        # Django's decorator keeps the list in a closure only.
        if isfunction(view) and "request_method_list" in view.__code__.co_freevars:
            listed = getclosurevars(view).nonlocals.get("request_method_list") or ()
            return frozenset(map(str, listed))
        view = getattr(view, "__wrapped__", None)
    return None
