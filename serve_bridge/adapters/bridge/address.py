"""The address of an instance, as the settings of an app give it."""

from __future__ import annotations

from typing import Any

from serve_bridge.config import checks


def address_text(option: str, value: Any) -> str | None:
    """Return *value*, the setting called *option*, as text; a path such as `pathlib.Path` is an address too.

    Raises:
        TypeError: *value* is neither a str nor a path.
        ConfigError: *value* cannot be encoded as UTF-8.
    """
    return None if value is None else checks.path_text(option, value)
