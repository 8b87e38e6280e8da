"""The addresses of hosts in options: their form, and what they stand for. No name server is asked."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]\x00-\x1f\x7f]{1,253}):([0-9]{1,5})")
_ZEROS: Final = re.compile(r"(0+|0[xX]0+)(\.(0+|0[xX]0+)){0,3}")
HIGHEST_PORT: Final = 65_535


def host_port(name: str, value: Any) -> str:
    """Accept HOST:PORT; an IPv6 address stands in brackets."""
    found = _HOST_PORT.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[2]) > HIGHEST_PORT or not _is_host(found[1]):
        raise ConfigError(f"{name} must be HOST:PORT, such as 10.0.0.5:7000 or [fd00::5]:7000, got {shown(value)}")
    return str(value)


def _is_host(host: str) -> bool:
    """Return whether *host* can be looked up: a label of a name has 1 to 63 characters."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def split(address: str) -> tuple[str, int]:
    """Return the host and the port of *address*, which `host_port` has accepted."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """Return HOST:PORT."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_any(host: str) -> bool:
    """Return whether *host* stands for every address of a host. The C library takes "*" and "0" for one too."""
    try:
        return host == "*" or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return _ZEROS.fullmatch(host) is not None


def is_loopback(host: str | None) -> bool:
    """Return whether *host* names this machine only, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False
