"""The files for TLS of a web host, and the warning about an instance without TLS."""

from __future__ import annotations

import logging
import os
from typing import Final

import msgspec

from serve_bridge.config.http_options import is_loopback
from serve_bridge.config.network_options import Tls
from serve_bridge.errors import ConfigError
from serve_bridge.instance.instance import Instance

PREFIX: Final = "SERVE_BRIDGE_TLS_"
VARIABLES: Final = (f"{PREFIX}CERT", f"{PREFIX}KEY", f"{PREFIX}CA")

_logger = logging.getLogger("serve_bridge")


def tls_of_environment(instance: str) -> Tls | None:
    """Return the files in SERVE_BRIDGE_TLS_CERT, SERVE_BRIDGE_TLS_KEY and SERVE_BRIDGE_TLS_CA; None: none is set.

    Raises:
        ConfigError: One of them is not set, or is not an absolute path.
    """
    values = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(values.values()):
        return None
    for name, value in values.items():
        if not value:
            raise ConfigError(f"TLS needs {', '.join(VARIABLES[:-1])} and {VARIABLES[-1]}; {name} is not set")
        if not os.path.isabs(value) or "\0" in value:
            raise ConfigError(f"{name}={value!r} must be the absolute path of a file")
    cert, key, ca = values.values()
    return Tls(cert, key, ca, instance, PREFIX)


def with_own_tls(instance: Instance) -> Instance:
    """Return *instance* with the files that the environment of this process names, if the instance uses TLS.

    Otherwise the paths are those of the host on which the instance was started.
    """
    own = None if instance.tls is None else tls_of_environment(instance.name)
    return instance if own is None else msgspec.structs.replace(instance, tls=own)


def warn_if_readable(name: str, host: str | None, tls: Tls | None) -> None:
    """Warn if instance *name* listens on *host* without TLS and other hosts can reach it."""
    if host is not None and not is_loopback(host) and tls is None:
        _logger.warning(
            "instance %r listens on %s without TLS, so bodies travel readable between hosts; tls_cert, tls_key and "
            "tls_ca encrypt them",
            name,
            host,
        )
