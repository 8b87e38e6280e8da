"""The settings of an app: the keys of its configuration that begin with SERVE_BRIDGE_, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flask import Flask

from serve_bridge.adapters.bridge.address import address_text
from serve_bridge.adapters.bridge.forwarded_route import SYNC_TIMEOUT_S
from serve_bridge.adapters.bridge.route_spec import RouteSpec, parse_routes
from serve_bridge.config import checks
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown

PREFIX: Final = "SERVE_BRIDGE_"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one app.

    Attributes:
        address: SERVE_BRIDGE_ADDRESS: address as for `serve_bridge.connect`. None: the environment variable of that
            name, otherwise the instance of this user on this machine.
        name: SERVE_BRIDGE_NAME: name of the instance among those of this user.
        timeout_s: SERVE_BRIDGE_TIMEOUT_S: time limit in seconds of a forwarded request whose route has no `timeout_s`.
        routes: SERVE_BRIDGE_ROUTES: the routes before the app's own routing.
        runtime: SERVE_BRIDGE_RUNTIME: "local" runs the backends inside this process; None joins an instance.
        backends: SERVE_BRIDGE_BACKENDS: modules with declarations, declared objects, import paths of both.
    """

    address: str | None
    name: str
    timeout_s: float
    routes: tuple[RouteSpec, ...]
    runtime: str | None
    backends: tuple[object, ...]


_DEFAULTS: Final[Mapping[str, Any]] = {
    "ADDRESS": None,
    "NAME": "default",
    "TIMEOUT_S": SYNC_TIMEOUT_S,
    "ROUTES": {},
    "RUNTIME": None,
    "BACKENDS": (),
}


def read_settings(app: Flask) -> Settings:
    """Set the defaults in the configuration of *app*, and return its settings.

    Raises:
        ConfigError: A key is unknown, and the message suggests the nearest one; or a value is wrong.
        TypeError: A value has a wrong type.
    """
    for key, default in _DEFAULTS.items():
        app.config.setdefault(PREFIX + key, default)
    given = app.config.get_namespace(PREFIX, lowercase=False)
    known = [PREFIX + key for key in _DEFAULTS]
    for key in given.keys() - _DEFAULTS.keys():
        near = nearest(PREFIX + key, known)
        raise ConfigError(f"{PREFIX}{key} is not a setting of serve_bridge{near}; known: {', '.join(known)}")
    return Settings(
        address=address_text(PREFIX + "ADDRESS", given["ADDRESS"]),
        name=_instance_name(given["NAME"]),
        timeout_s=checks.seconds()(PREFIX + "TIMEOUT_S", given["TIMEOUT_S"]),
        routes=parse_routes(given["ROUTES"], PREFIX + "ROUTES", extra=ROUTE_EXTRA),
        runtime=_runtime(given["RUNTIME"]),
        backends=checks.listed(PREFIX + "BACKENDS", given["BACKENDS"]),
    )


def _instance_name(value: object) -> str:
    try:
        return check_name("instance", value)
    except (ConfigError, TypeError) as error:
        raise type(error)(f"{PREFIX}NAME: {error}") from None


def _runtime(value: object) -> str | None:
    if value is not None and value != "local":
        raise ConfigError(f"{PREFIX}RUNTIME must be 'local', or None to join a running instance, got {shown(value)}")
    return "local" if value else None


def _rule_name(option: str, value: Any) -> str:
    if not checks.text(option, value).strip() or "." in value:
        raise ConfigError(f"{option} must be a name without a dot, for `url_for`, got {shown(value)}")
    return str(value)


ROUTE_EXTRA: Final[Mapping[str, checks.Check]] = {"name": _rule_name}
"""Keys of a route's entry that only Flask has, with their checks: the name for `url_for`."""
