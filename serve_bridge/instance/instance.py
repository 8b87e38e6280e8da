"""An instance, as its clients know it: its name, its controller, and the key."""

from __future__ import annotations

import os
import secrets
from typing import Final

import msgspec

from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key, Role

FILE_NAME: Final = "instance.json"
"""Name of the instance's file in its directory."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One start of an instance, as a client needs it.

    Attributes:
        name: Its name.
        generation: The id of this start of the name.
        runtime: The runtime of its replicas: "ray" or "local".
        directory: The directory of its sockets on this machine.
        controller: Where its controller listens.
        secret: The key as `Key.text`; `repr` leaves it out.
    """

    name: str
    generation: str
    runtime: str
    directory: str
    controller: SocketAddress
    secret: str

    @property
    def key(self) -> Key:
        """The key at both ends of every connection."""
        return Key.of_text(self.secret)

    def only(self, *roles: Role) -> Instance:
        """Return the same instance with the keys of *roles* only, for a process in these roles."""
        return msgspec.structs.replace(self, secret=self.key.only(*roles).text)

    @property
    def address(self) -> str:
        """The address for `connect` and SERVE_BRIDGE_ADDRESS: the path of the instance's file."""
        return os.path.join(self.directory, FILE_NAME)

    def __repr__(self) -> str:
        return f"Instance(name={self.name!r}, generation={self.generation!r}, address={self.address!r})"


def new_generation() -> str:
    """Return an id for one start of an instance."""
    return secrets.token_hex(4)
