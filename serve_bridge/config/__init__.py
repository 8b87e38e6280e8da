"""Options of backends, of the proxy and of actors: each is declared once, with its unit, default and check. No I/O."""

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions, Location

__all__ = ["BackendConfig", "HTTPOptions", "Location"]
