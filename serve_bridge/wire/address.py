"""Where the data-plane sockets of one process are."""

from __future__ import annotations

from typing import Final

import msgspec

CONTROLLER: Final = "controller"
"""The name under which the controller listens, as replicas do under their ids."""


class ReplicaAddress(msgspec.Struct, frozen=True, array_like=True):
    """Where one replica's (or the controller's) data-plane sockets are.

    Attributes:
        replica: The replica's id, unique in the instance.
        unix: Path of its unix socket on its own node.
        tcp: Host and port for other nodes, or None where there are none.
        streaming: Names of the methods that read the body of a request while it comes. The others need the whole body.
    """

    replica: str
    unix: str
    tcp: tuple[str, int] | None = None
    streaming: tuple[str, ...] = ()
