"""The files for TLS of a web host, and the warning about an instance without TLS."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from serve_bridge.config.addresses import is_loopback
from serve_bridge.config.tls import Tls
from serve_bridge.errors import ConfigError
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.key_files import KEY_FILE_VARIABLE

PREFIX: Final = "SERVE_BRIDGE_TLS_"
VARIABLES: Final = (f"{PREFIX}CERT", f"{PREFIX}KEY", f"{PREFIX}CA")
ENDINGS: Final = ("tls-cert.pem", "tls-key.pem", "tls-ca.pem")
"""Ends of the names of the same files beside a key file. Each name begins with that of the instance and a dot."""

_logger = logging.getLogger("serve_bridge")


def own_tls(instance: str) -> Tls | None:
    """Return the files for TLS of this host; None: it has none.

    SERVE_BRIDGE_TLS_CERT, SERVE_BRIDGE_TLS_KEY and SERVE_BRIDGE_TLS_CA name them. Without these variables, they are
    the files beside the key file that have the name of *instance* (see `beside_key_file`).

    Raises:
        ConfigError: Not all three are given, or a path is not absolute.
    """
    values = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(values.values()):
        return _tls_beside_key_file(instance)
    for name, value in values.items():
        if not value:
            raise ConfigError(f"TLS needs {', '.join(VARIABLES[:-1])} and {VARIABLES[-1]}; {name} is not set")
        if not os.path.isabs(value) or "\0" in value:
            raise ConfigError(f"{name}={value!r} must be the absolute path of a file")
    cert, key, ca = values.values()
    return Tls(cert, key, ca, instance, PREFIX)


def beside_key_file(instance: str) -> list[Path]:
    """Return where the certificate, its key and the authority's certificate may be beside the key file.

    The list is empty if SERVE_BRIDGE_KEY_FILE does not name a key file.
    """
    key_file = os.environ.get(KEY_FILE_VARIABLE, "")
    if not os.path.isabs(key_file) or "\0" in key_file:
        return []
    return [Path(key_file).parent / f"{instance}.{ending}" for ending in ENDINGS]


def _tls_beside_key_file(instance: str) -> Tls | None:
    paths = beside_key_file(instance)
    missing = [path for path in paths if not path.exists()]
    if missing == paths:
        return None
    if missing:
        names = [path.name for path in paths]
        raise ConfigError(f"TLS needs {', '.join(names[:-1])} and {names[-1]}; there is no file {missing[0]}")
    cert, key, ca = map(str, paths)
    return Tls(cert, key, ca, instance)


def with_own_tls(instance: Instance) -> Instance:
    """Return *instance* with the files for TLS of this host, if it has any and the instance uses TLS.

    Otherwise the paths are those of the host on which the instance was started.
    """
    own = None if instance.tls is None else own_tls(instance.name)
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
