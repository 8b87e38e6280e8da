"""The seam between the controller and whatever runs its processes.

`runtimes.ray` is the only code that imports Ray; `runtimes.local` runs everything in this process.
"""

from __future__ import annotations

from typing import Any, Protocol

from serve_bridge.instance.instance import Instance
from serve_bridge.specs import ProxySpec, ReplicaSpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key


class Store(Protocol):
    """Where the controller's checkpoint outlives the controller.

    Attributes:
        most_bytes: The largest value that it keeps.
    """

    most_bytes: int

    async def put(self, key: str, value: bytes) -> None:
        """Keep *value* under *key*, for as long as the cluster lives."""

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under *key*, or None."""

    async def delete(self, prefix: str) -> None:
        """Forget every key that begins with *prefix*."""


class Runtime(Protocol):
    """Starts and ends the processes of one instance.

    Attributes:
        store: For the checkpoint.
    """

    store: Store

    async def launch_replica(self, spec: ReplicaSpec, key: Key, options: dict[str, Any]) -> SocketAddress:
        """Start a replica; return where it listens, once its user code is constructed.

        Raises:
            BackendStartError: User code raised, or the process ended.
        """
        ...

    async def launch_proxy(self, spec: ProxySpec, key: Key) -> tuple[SocketAddress, str]:
        """Start a proxy on *spec*'s node; return where it listens for the controller, and its base URL.

        Raises:
            OSError, ValueError: It cannot listen where it should.
        """
        ...

    async def stop(self, name: str) -> None:
        """End the replica or proxy *name* at once, if it lives."""
        ...

    async def has_ended(self, name: str) -> bool:
        """Return whether the replica or proxy *name* has ended for certain; False if that is not known in time."""
        ...

    async def explain_end(self, name: str) -> str:
        """Return how the process of replica *name* has ended, such as "exit code 3"; "" if it runs or is not known."""
        ...

    async def used_s(self, name: str) -> float | None:
        """Return how many seconds of processor time the loop of proxy *name* has used; None if it cannot be asked.

        A proxy whose loop is busy answers too: the loop does not take part.
        """
        ...

    async def explain_wait(self, name: str, options: dict[str, Any]) -> str:
        """Return which resources replica *name* still waits for, as a sentence for an error; "" if it has them.

        *options* are those that it was launched with.
        """
        ...

    async def nodes(self) -> dict[str, str]:
        """Return the addresses of the nodes that are alive, by id, the controller's own first."""
        ...

    async def update_files(self, instance: Instance) -> None:
        """Let the files of *instance* on other nodes say where its controller is."""
        ...

    async def remove_files(self, instance: Instance) -> None:
        """Remove what *instance* has left on other nodes."""
        ...

    async def end(self) -> None:
        """End the controller itself, after it has answered."""
        ...
