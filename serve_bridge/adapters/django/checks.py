"""System checks of the setting SERVE_BRIDGE; none touches the network."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error

from serve_bridge.adapters.django.options import options
from serve_bridge.errors import ConfigError


def check_setting(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Return an error if SERVE_BRIDGE is none that `options` accepts."""
    try:
        options()
    except (ConfigError, TypeError) as error:
        return [Error(str(error), hint="See serve_bridge.adapters.django.options.", id="serve_bridge.E001")]
    return []
