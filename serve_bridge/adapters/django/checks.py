"""System checks of the setting SERVE_BRIDGE and of forwarded views, without network access.

E001  the setting is not a dict     W001  a request may take longer than gunicorn lets a worker (--deploy)
E002  a key is unknown              W002  the instance is inside the web process (--deploy)
E003  a value is wrong              W003  a route that knows its user needs no CSRF token (--deploy)
E004  an entry of ROUTES is wrong   W004  nothing serves ROUTES
E005  a pattern is not a path
E006  gevent or eventlet has replaced the sockets
E007  a pattern with unnamed groups leads to a forwarded view
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.adapters.django.forwarded_urls import ROUTES_URLCONF, are_routes_included, forwarded_urls
from serve_bridge.adapters.django.middleware import ServeBridgeMiddleware
from serve_bridge.adapters.django.routes import url_patterns
from serve_bridge.adapters.django.settings import KEYS, RUNTIME_VARIABLE, SETTING, flaws, sound_options
from serve_bridge.process.gunicorn_timeout import HINT, gunicorn_timeout_s
from serve_bridge.process.monkey_patches import patched_by

TAG: Final = "serve_bridge"
_MIDDLEWARE: Final = f"{ServeBridgeMiddleware.__module__}.{ServeBridgeMiddleware.__qualname__}"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_FLAWS: Final = {
    "type": ("E001", f"{SETTING} must be a dict such as {{'ADDRESS': '...', 'ROUTES': {{'ml/': 'endpoint'}}}}."),
    "key": ("E002", f"The keys are: {', '.join(KEYS)}."),
    "value": ("E003", "The message names the allowed values; docs/django.md, Settings, has an example of each key."),
    "route": ("E004", "An entry reads 'pattern': 'endpoint', or 'pattern': {'endpoint': ..., 'methods': [...], ...}."),
}


def check_setting(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return an error for each fault of SERVE_BRIDGE."""
    messages = []
    for flaw in flaws():
        number, hint = _FLAWS[flaw.kind]
        messages.append(Error(_sentence(flaw.error), hint=hint, id=f"serve_bridge.{number}"))
    return messages


def check_patterns(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return Django's own messages about the patterns of ROUTES."""
    messages: list[CheckMessage] = []
    for spec in sound_options().routes:
        try:
            for pattern in url_patterns([spec], use_async=False):
                messages += pattern.check()
        except ImproperlyConfigured as error:
            hint = "A pattern has the syntax of `django.urls.path`, such as 'ml/<int:id>/'."
            message = f"{_route(spec)}: {error}"
            messages.append(Error(_sentence(message), hint=hint, id="serve_bridge.E005"))
    return messages


def check_urls(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return an error for each URL that would call a forwarded view with positional arguments."""
    hint = "Name the groups, as in r'^items/(?P<id>[0-9]+)/$', in the patterns that include this one too."
    return [
        Error(
            f"{_url(url.path)} leads to a forwarded view and has unnamed groups: path parameters need names.",
            hint=hint,
            id="serve_bridge.E007",
        )
        for url in forwarded_urls()
        if url.has_unnamed_groups
    ]


def check_process(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return an error if the process has no real sockets and threads."""
    patch = patched_by()
    if patch is None:
        return []
    message = f"{patch} has replaced the sockets and threads of this process, and serve_bridge needs Python's own."
    hint = "Run the project under gunicorn's sync or gthread workers, or under an ASGI server."
    return [Error(message, hint=hint, id="serve_bridge.E006")]


def check_served(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return a warning if ROUTES has routes, but neither the middleware nor an include serves them."""
    if not sound_options().routes or _MIDDLEWARE in settings.MIDDLEWARE or are_routes_included():
        return []
    hint = f"Add {_MIDDLEWARE!r} to MIDDLEWARE, or path('', include({ROUTES_URLCONF!r})) to the URLs."
    return [Warning(f"{SETTING}['ROUTES'] lists routes, but nothing serves them.", hint=hint, id="serve_bridge.W004")]


def check_deployment(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return warnings about settings and views that do not suit production."""
    chosen = sound_options()
    messages: list[CheckMessage] = []
    times = [("TIMEOUT_S", chosen.timeout_s)]
    times += [(_route(spec), spec.options.get("timeout_s") or 0.0) for spec in chosen.routes]
    urls = [url for url in forwarded_urls() if not url.is_listed]
    times += [(_url(url.path), url.route.timeout_s or 0.0) for url in urls]
    limit_s = gunicorn_timeout_s()
    for name, timeout_s in times:
        if timeout_s >= limit_s:
            message = (
                f"{name}: a forwarded request may take {timeout_s:g} s, and gunicorn kills a sync worker after "
                f"{limit_s:g} s."
            )
            hint = f"{HINT[0].upper()}{HINT[1:]}. If yours is longer there, silence this check."
            messages.append(Warning(message, hint=hint, id="serve_bridge.W001"))
    if chosen.runtime == "local":
        message = "The backends run inside the web process: RUNTIME is 'local'."
        hint = f"Remove it from {SETTING}, and {RUNTIME_VARIABLE} from the environment, and start an instance."
        messages.append(Warning(message, hint=hint, id="serve_bridge.W002"))
    forgeable = [
        _route(spec)
        for spec in chosen.routes
        if spec.extra.get("csrf_exempt") and _is_forgeable(ForwardedRoute(spec.endpoint, spec.options), spec.methods)
    ]
    forgeable += [_url(url.path) for url in urls if url.csrf_exempt and _is_forgeable(url.route, url.methods)]
    for name in forgeable:
        message = f"{name} knows who its user is, and takes unsafe requests without a CSRF token."
        hint = "Remove csrf_exempt; or remove context and credentials, if its clients are not browsers."
        messages.append(Warning(message, hint=hint, id="serve_bridge.W003"))
    return messages


def _is_forgeable(route: ForwardedRoute, methods: Collection[str] | None) -> bool:
    """Return whether *route* knows its user and takes unsafe *methods*."""
    return (route.context is not None or route.credentials) and (methods is None or not _SAFE.issuperset(methods))


def _url(path: str) -> str:
    return f"The URL {path!r}"


def _route(spec: RouteSpec) -> str:
    return f"{SETTING}['ROUTES'][{spec.pattern!r}]"


def _sentence(message: object) -> str:
    text = str(message)
    return text if text.endswith((".", "?")) else f"{text}."
