"""The setting SERVE_BRIDGE, checked.

Rule 1: the setting is read on use, never at import. After the signal `setting_changed` it is read again.
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
"""Environment variable that overrides the key RUNTIME; `manage.py serve_bridge dev` sets it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keys of SERVE_BRIDGE; each is optional.

    Attributes:
        address: ADDRESS: address as for `serve_bridge.connect`, a str or a path. None: the environment variable
            SERVE_BRIDGE_ADDRESS, otherwise the instance of this user on this machine.
        name: NAME: name of the instance among those of this user.
        timeout_s: TIMEOUT_S: time limit in seconds of a forwarded request. The default is less than the 30 s after
            which gunicorn kills a worker.
        routes: ROUTES: `{"ml/<int:id>/": "endpoint"}`. In place of the name, a dict may have `endpoint`, `methods`, the
            options of `bridge_view`, the `name` of the URL (default: the name of the endpoint), and `decorators`:
            import paths of decorators for views, the outermost first. `ServeBridgeMiddleware` puts the routes before
            the project's own URLs; or include `serve_bridge.adapters.django.urls`.
        runtime: RUNTIME: None joins a running instance. "local" starts an instance inside this process and deploys the
            declarations of the installed apps to it, for development and tests.
        use_async: ASYNC: whether included routes are `async def` views, for projects that run under ASGI. The
            middleware chooses the kind of view by the request.
    """

    address: str | None = None
    name: str = "default"
    timeout_s: float = SYNC_TIMEOUT_S
    routes: tuple[RouteSpec, ...] = ()
    runtime: str | None = None
    use_async: bool = False


@dataclass(frozen=True)
class Flaw:
    """One fault of the setting.

    Attributes:
        kind: "type" if the setting is not a dict, "key" if a key is unknown, "value" for a wrong value, and "route" for
            a wrong entry of ROUTES.
        error: The error that `options` raises.
    """

    kind: str
    error: ConfigError | TypeError


def options() -> Options:
    """Return the options of the running settings.

    Raises:
        ConfigError: A key is unknown, and the message suggests the nearest one; or a value is wrong.
        TypeError: The setting is not a dict, or a value has a wrong type.
    """
    found, flaws = _read(getattr(settings, SETTING, {}))
    if flaws:
        raise flaws[0].error
    return found


def sound_options() -> Options:
    """Return the valid options. The system checks, and the first use, report the others."""
    return _read(getattr(settings, SETTING, {}))[0]


def flaws() -> list[Flaw]:
    """Return all faults of the running settings."""
    return _read(getattr(settings, SETTING, {}))[1]


def on_change(forget: Callable[[], None]) -> Callable[[], None]:
    """Call *forget*, a function of a module, whenever `override_settings` has changed SERVE_BRIDGE."""

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
    # One by one, so that a check names all wrong entries, not only the first.
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
    return found  # type: ignore[no-any-return]  # an imported object


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
