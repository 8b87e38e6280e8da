"""The address of a process of the instance on the data plane."""

from __future__ import annotations

from typing import Final

import msgspec

CONTROLLER: Final = "controller"
"""The name under which the controller listens. A replica listens under its id."""


class SocketAddress(msgspec.Struct, frozen=True, array_like=True):
    """The data-plane sockets of one process: a replica, a proxy or the controller.

    Attributes:
        name: The name under which the process listens, unique in the instance.
        unix: Path of the unix socket on the node of the process.
        tcp: Host and port for other nodes; None if the process does not listen on TCP.
        streaming: Names of a replica's methods that read a request's body while it arrives. The other methods need the
            whole body.
    """

    name: str
    unix: str
    tcp: tuple[str, int] | None = None
    streaming: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The unix socket, or the TCP address if there is none, for error texts."""
        return self.unix if self.unix or self.tcp is None else "{}:{}".format(*self.tcp)
