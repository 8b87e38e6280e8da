"""The interface through which the controller starts and ends processes.

`runtimes.ray` implements it with Ray actors, `runtimes.local` with threads of this process.
"""

from __future__ import annotations

from typing import Any, Protocol

from serve_bridge.instance.instance import Instance
from serve_bridge.specs import ProxySpec, ReplicaSpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key


class Store(Protocol):
    """A key-value store for the checkpoint, which outlives the controller.

    Attributes:
        most_bytes: Upper limit for a value, in bytes.
    """

    most_bytes: int

    async def put(self, key: str, value: bytes) -> None:
        """Store *value* under *key*, for the life of the cluster."""

    async def get(self, key: str) -> bytes | None:
        """Return the value of *key*, or None."""

    async def delete(self, prefix: str) -> None:
        """Delete every key that begins with *prefix*."""


class Runtime(Protocol):
    """Starts and ends the processes of one instance.

    Attributes:
        store: The store of the checkpoint.
    """

    store: Store

    async def launch_replica(self, spec: ReplicaSpec, key: Key, options: dict[str, Any]) -> SocketAddress:
        """Start a replica; return its address, once its user code is constructed.

        Raises:
            BackendStartError: User code raised, or the process ended.
            ConfigError: *options* are bad.
        """
        ...

    async def launch_proxy(self, spec: ProxySpec, key: Key) -> tuple[SocketAddress, str]:
        """Start a proxy on its node; return its address for the controller, and its base URL.

        Raises:
            OSError, ValueError: It cannot listen at its HTTP address.
        """
        ...

    async def keep_port(self, node: str, directory: str) -> bool:
        """Let a process on *node* keep the port of the proxies there open, until `release_port`.

        It serves the proxies in *directory*; on another node the runtime chooses one. Return whether it holds the port.

        Raises:
            Exception: The process cannot serve, or has ended. Another call starts another process.
        """
        ...

    async def copy_port(self, node: str, port: int) -> bool:
        """Let the keeper on *node* copy the listening socket of a proxy that cannot give one.

        Return whether the keeper holds the port now.
        """
        ...

    async def release_port(self, node: str) -> None:
        """Keep the port on *node* no longer. It closes with its last proxy."""
        ...

    async def stop(self, name: str) -> None:
        """End the replica or proxy *name* at once, if it runs."""
        ...

    async def has_ended(self, name: str) -> bool:
        """Return whether the replica or proxy *name* has certainly ended; False if this is not known in time."""
        ...

    async def explain_end(self, name: str) -> str:
        """Return how the process of replica *name* has ended, such as "exit code 3"; "" if it runs, or if unknown."""
        ...

    async def used_s(self, name: str) -> float | None:
        """Return the processor time of the event loop of proxy *name*, in seconds; None if it is not known.

        The loop need not answer, so this works for a busy loop too.
        """
        ...

    async def explain_wait(self, name: str, options: dict[str, Any]) -> str:
        """Return the resources for which replica *name* still waits, as a sentence; "" if it has its resources.

        *options* are those of its launch.
        """
        ...

    async def nodes(self) -> dict[str, str]:
        """Return the addresses of the live nodes, by id, with the node of the controller first."""
        ...

    async def token_mode(self) -> str:
        """Return Ray's mode "token" or "disabled"; "" if the runtime is not Ray."""
        ...

    async def replicas_bytes(self) -> int | None:
        """Return the memory of the replicas on the controller's machine; None if it is not known."""
        ...

    async def update_files(self, instance: Instance) -> None:
        """Write the address of the controller into the files of *instance* on other nodes."""
        ...

    async def remove_files(self, instance: Instance) -> None:
        """Remove the files and sockets of *instance* on other nodes."""
        ...

    async def end(self) -> None:
        """End the process of the controller."""
        ...
