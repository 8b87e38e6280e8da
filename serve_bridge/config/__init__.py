"""Options of backends, of the proxy and of actors: each is declared once, with its unit, default and check. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_bridge.config.backend_config import BackendConfig
    from serve_bridge.config.http_options import HTTPOptions, Location

__all__ = ["BackendConfig", "HTTPOptions", "Location"]


def __getattr__(name: str) -> Any:
    """Load a class of options on first use: a web worker needs only the checks of this wing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve_bridge.config import backend_config, http_options

    return getattr(backend_config if name == "BackendConfig" else http_options, name)
