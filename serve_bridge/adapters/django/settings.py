"""The setting SERVE_BRIDGE, checked.

Rule 1: it is read when it is needed, never at import; what was made of it is made anew when `setting_changed` says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from serve_bridge.adapters.bridge.address import address_text
from serve_bridge.adapters.bridge.forwarded_route import SYNC_TIMEOUT_S
from serve_bridge.adapters.bridge.route_spec import RouteSpec, parse_routes
from serve_bridge.config import checks
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown

SETTING: Final = "SERVE_BRIDGE"
RUNTIME_VARIABLE: Final = "SERVE_BRIDGE_RUNTIME"
"""Environment variable that goes before the key RUNTIME; `manage.py serve_bridge dev` sets it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What SERVE_BRIDGE may hold; each key is optional.

    Attributes:
        address: ADDRESS: what `serve_bridge.connect` takes; None is the environment's SERVE_BRIDGE_ADDRESS,
            else this user's instance on this machine.
        name: NAME: which of this user's instances.
        timeout_s: TIMEOUT_S: seconds a forwarded request may take; the default is less than the 30 s after
            which gunicorn kills a worker.
        routes: ROUTES: `{"ml/<int:id>/": "endpoint"}`, or a dict in place of the name with `endpoint`, `methods`, the
            options of `bridge_view`, the `name` of the URL (default: the endpoint's), and `decorators`, import paths
            of decorators of views, the outermost first. Served by `ServeBridgeMiddleware` ahead of the project's own
            URLs, or where `serve_bridge.adapters.django.urls` is included.
        runtime: RUNTIME: None joins a running instance. "local" starts one inside this process and deploys what the
            installed apps declare to it, for development and tests.
        use_async: ASYNC: whether the included routes are `async def` views, for projects that run under ASGI. The
            middleware's are whatever the request needs.
    """

    address: str | None = None
    name: str = "default"
    timeout_s: float = SYNC_TIMEOUT_S
    routes: tuple[RouteSpec, ...] = ()
    runtime: str | None = None
    use_async: bool = False


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong with the setting.

    Attributes:
        kind: "type" of the setting itself, an unknown "key", a "value", or an entry of ROUTES, "route".
        error: What `options` raises for it.
    """

    kind: str
    error: ConfigError | TypeError


def options() -> Options:
    """Return the options of the running settings.

    Raises:
        ConfigError: A key is unknown, the message suggests the nearest one; or has a value that it cannot have.
        TypeError: The setting is no dict.
    """
    found, flaws = _read(getattr(settings, SETTING, {}))
    if flaws:
        raise flaws[0].error
    return found


def sound_options() -> Options:
    """Return what is right of them; the system checks, and the first use of the rest, say what is not."""
    return _read(getattr(settings, SETTING, {}))[0]


def flaws() -> list[Flaw]:
    """Return all that is wrong with the running settings."""
    return _read(getattr(settings, SETTING, {}))[1]


def on_change(forget: Callable[[], None]) -> Callable[[], None]:
    """Have *forget*, a function of a module, called whenever `override_settings` has changed SERVE_BRIDGE."""

    def changed(*, setting: str, **_: Any) -> None:
        if setting == SETTING:
            forget()

    setting_changed.connect(changed, weak=False, dispatch_uid=(forget.__module__, forget.__qualname__))
    return forget


def _read(given: Any) -> tuple[Options, list[Flaw]]:
    if not isinstance(given, Mapping):
        return Options(), [Flaw("type", TypeError(f"{SETTING} must be a dict, got {type(given).__name__}"))]
    found: dict[str, Any] = {}
    wrong: list[Flaw] = []
    for key, value in given.items():
        if key == "ROUTES":
            found["routes"], flawed = _routes(value)
            wrong += flawed
        elif key in _KEYS:
            name, check = _KEYS[key]
            try:
                found[name] = check(f"{SETTING}[{key!r}]", value)
            except (ConfigError, TypeError) as error:
                wrong.append(Flaw("value", error))
        else:
            near = nearest(key.upper() if isinstance(key, str) else key, KEYS)
            message = f"{SETTING} has an unknown key {shown(key)}{near or '; known: ' + ', '.join(KEYS)}"
            wrong.append(Flaw("key", ConfigError(message)))
    try:
        variable = os.environ.get(RUNTIME_VARIABLE)
        if variable and variable != "local":
            raise ConfigError(
                f"the environment variable {RUNTIME_VARIABLE} must be unset or 'local', got {shown(variable)}"
            )
        found |= {"runtime": "local"} if variable else {}
    except ConfigError as error:
        wrong.append(Flaw("value", error))
    return Options(**found), wrong


def _routes(value: Any) -> tuple[tuple[RouteSpec, ...], list[Flaw]]:
    specs: list[RouteSpec] = []
    wrong = []
    # One by one, so that a check names all that are wrong and not only the first.
    for part in [{pattern: entry} for pattern, entry in value.items()] if isinstance(value, Mapping) else [value]:
        try:
            specs += parse_routes(part, f"{SETTING}['ROUTES']", extra=_EXTRA)
        except (ConfigError, TypeError) as error:
            wrong.append(Flaw("route", error))
    return tuple(specs), wrong


def _name(name: str, value: Any) -> str:
    try:
        return check_name("instance", value)
    except (ConfigError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from None


def _runtime(name: str, value: Any) -> str | None:
    if value not in (None, "local"):
        raise ConfigError(
            f"{name} must be None, to join a running instance, or 'local', to start one in this process, "
            f"got {shown(value)}"
        )
    return value if value is None else "local"


def _decorators(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    return tuple(_decorator(name, each) for each in checks.listed(name, value))


def _decorator(name: str, value: Any) -> Callable[..., Any]:
    try:
        found: Any = import_string(value) if isinstance(value, str) else value
    except (ImportError, ImproperlyConfigured) as error:
        raise ConfigError(f"{name}: {error}") from None
    if not callable(found):
        raise ConfigError(f"{name} must list decorators or their import paths, got {shown(value)}")
    return found  # type: ignore[no-any-return]  # whatever was imported


_KEYS: Final[Mapping[str, tuple[str, checks.Check]]] = {
    "ADDRESS": ("address", address_text),
    "NAME": ("name", _name),
    "TIMEOUT_S": ("timeout_s", checks.seconds()),
    "RUNTIME": ("runtime", _runtime),
    "ASYNC": ("use_async", checks.flag),
}
KEYS: Final = (*_KEYS, "ROUTES")
_EXTRA: Final[Mapping[str, checks.Check]] = {
    "name": checks.text,
    "csrf_exempt": checks.flag,
    "decorators": _decorators,
}
