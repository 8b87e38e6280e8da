"""The address of an instance over TCP: serve-bridge://HOST:PORT/NAME.

Rule 1: it names no generation, so it leads to the next start at the same place too.
Rule 2: it holds no key. The key is in the file of SERVE_BRIDGE_KEY_FILE.
"""

from __future__ import annotations

from typing import NamedTuple

from serve_bridge.config.addresses import host_port, joined, split
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError
from serve_bridge.instance.instance import SCHEME


class RemoteAddress(NamedTuple):
    """An address over TCP.

    Attributes:
        host, port: Where the controller listens.
        name: The instance's name.
    """

    host: str
    port: int
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{joined(self.host, self.port)}/{self.name}"


def is_remote(address: str) -> bool:
    """Return whether *address* is one over TCP."""
    return address.startswith(SCHEME)


def parsed(address: str, source: str) -> RemoteAddress:
    """Return the parts of *address*, which *source* has given.

    Raises:
        ConfigError: It does not have the form.
    """
    place, slash, name = address.removeprefix(SCHEME).partition("/")
    try:
        if not slash or not name:
            raise ConfigError("the name of the instance is missing")
        host, port = split(host_port("its first part", place))
        return RemoteAddress(host, port, check_name("instance", name))
    except ConfigError as error:
        raise ConfigError(
            f"{source}={address!r} is not an address of the form serve-bridge://HOST:PORT/NAME: {error}"
        ) from None
