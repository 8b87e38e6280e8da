"""An instance, as its clients know it: its name, its controller, and the key."""

from __future__ import annotations

import os
import secrets
from functools import partial
from typing import Any, Final

import msgspec

from serve_bridge.config.addresses import joined
from serve_bridge.config.tls import Tls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.codecs import PICKLED, PLAIN, Codec
from serve_bridge.wire.keys import CLIENTS, Key, Role

SCHEME: Final = "serve-bridge://"
"""Begin of an address over TCP: serve-bridge://HOST:PORT/NAME."""
FILE_NAME: Final = "instance.json"
"""Name of the instance's file in its directory."""


class Instance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One start of an instance, as a client needs it.

    Attributes:
        name: Its name.
        generation: The id of this start of the name.
        runtime: The runtime of its replicas: "ray" or "local".
        directory: The directory of its sockets on this machine; "": it was found over TCP, and has no file here.
        controller: Where its controller listens.
        secret: The key as `Key.text`; `repr` leaves it out. After a rotation it is the oldest valid one, because
            earlier versions of serve_bridge read this field only.
        newer: The newer valid keys, the oldest first.
        tls: The files for TLS over TCP; None: it does not use TLS.
    """

    name: str
    generation: str
    runtime: str
    directory: str
    controller: SocketAddress
    secret: str
    newer: tuple[str, ...] = ()
    tls: Tls | None = None

    @property
    def key(self) -> Key:
        """The key at both ends of every connection."""
        return Key.joined([Key.of_text(text) for text in reversed((self.secret, *self.newer))]).with_tls(self.tls)

    @property
    def codec(self) -> Codec:
        """How this process makes bytes of arguments and results."""
        return PLAIN if self.key.strongest(*CLIENTS) is Role.FORWARD else PICKLED

    def only(self, *roles: Role) -> Instance:
        """Return the same instance with the keys of *roles* only, for a process in these roles."""
        return self.with_key(self.key.only(*roles))

    def with_key(self, key: Key) -> Instance:
        """Return the same instance with *key*."""
        oldest, *newer = reversed(key.each)
        return msgspec.structs.replace(self, secret=oldest.text, newer=tuple(each.text for each in newer))

    @property
    def address(self) -> str:
        """The address for `connect` and SERVE_BRIDGE_ADDRESS: the path of the instance's file, if it has one here."""
        if self.directory or self.controller.tcp is None:
            return os.path.join(self.directory, FILE_NAME)
        return remote_address(*self.controller.tcp, self.name)

    def __reduce__(self) -> Any:
        # Without fields at their defaults, because earlier versions do not know the newer fields.
        defaults = {field.name: field.default for field in msgspec.structs.fields(Instance)}
        values = msgspec.structs.asdict(self)
        return partial(Instance, **{name: each for name, each in values.items() if each != defaults[name]}), ()

    def __repr__(self) -> str:
        return f"Instance(name={self.name!r}, generation={self.generation!r}, address={self.address!r})"


def remote_address(host: str, port: int, name: str) -> str:
    """Return the address over TCP."""
    return f"{SCHEME}{joined(host, port)}/{name}"


def new_generation() -> str:
    """Return an id for one start of an instance."""
    return secrets.token_hex(4)
