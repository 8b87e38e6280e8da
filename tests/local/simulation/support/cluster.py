"""The runtime of the simulation: processes that start, die and take their time, and the store of the checkpoint."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from serve_bridge.errors import BackendStartError
from serve_bridge.instance.instance import Instance
from serve_bridge.replica.replica import Replica
from serve_bridge.specs import ProxySpec, ReplicaSpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key
from tests.local.simulation.support.loop import Process, SimulatedLoop
from tests.local.simulation.support.network import Network

LONGEST_START_S = 0.5
"""Upper limit for the start of a process, in seconds."""


class Store:
    """A store that takes its time. A value that is written when its writer dies is stored, or is not."""

    most_bytes = 1 << 30

    def __init__(self, chance: random.Random) -> None:
        self.values: dict[str, bytes] = {}
        self._chance = chance

    async def put(self, key: str, value: bytes) -> None:
        """Store *value*."""
        await self._wait()
        self.values[key] = value
        await self._wait()

    async def get(self, key: str) -> bytes | None:
        """Return the value of *key*."""
        await self._wait()
        return self.values.get(key)

    async def delete(self, prefix: str) -> None:
        """Delete all keys that begin with *prefix*."""
        await self._wait()
        for key in [key for key in self.values if key.startswith(prefix)]:
            del self.values[key]

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.random() * 0.02)


class Cluster:
    """Starts and ends processes; it outlives the controller.

    Attributes:
        store: The store of the checkpoint.
        running: The replicas and their processes, by name.
        made: All replicas so far.
        has_ended_the_controller: Whether the controller has said that it is done.
    """

    def __init__(self, loop: SimulatedLoop, network: Network, chance: random.Random) -> None:
        self.store = Store(chance)
        self.running: dict[str, tuple[Process, Replica]] = {}
        self.made: list[Replica] = []
        self.has_ended_the_controller = False
        self._loop = loop
        self._network = network
        self._chance = chance
        self._starting: dict[str, asyncio.Future[SocketAddress]] = {}

    def kill(self, process: Process) -> None:
        """Kill *process*; the network breaks its connections."""
        process.is_dead = True
        self._network.cut_all_of(process)
        self.running.pop(process.name, None)
        started = self._starting.pop(process.name, None)
        if started is not None and not started.done():
            started.set_exception(BackendStartError("", "its process ended while it started"))
            started.exception()  # its controller may be dead

    async def launch_replica(self, spec: ReplicaSpec, key: Key, options: dict[str, Any]) -> SocketAddress:
        """Start a replica; the cluster goes on with it even if the controller dies."""
        process, replica = Process(spec.replica, self._loop), Replica(spec, key)
        started: asyncio.Future[SocketAddress] = self._loop.create_future()
        self.running[spec.replica] = process, replica
        self.made.append(replica)
        self._starting[spec.replica] = started
        process.start(self._start(replica, started))
        return await started

    async def _start(self, replica: Replica, started: asyncio.Future[SocketAddress]) -> None:
        await asyncio.sleep(self._chance.random() * LONGEST_START_S)
        try:
            address = await replica.start()
        except BackendStartError as error:
            if not started.done():
                started.set_exception(error)
                started.exception()
            return
        if not started.done():
            started.set_result(address)

    async def launch_proxy(self, spec: ProxySpec, key: Key) -> tuple[SocketAddress, str]:
        """Refuse: the instance has no proxy."""
        raise NotImplementedError

    async def stop(self, name: str) -> None:
        """End replica *name*."""
        await asyncio.sleep(self._chance.random() * 0.05)
        if name in self.running:
            self.kill(self.running[name][0])

    async def has_ended(self, name: str) -> bool:
        """Return whether *name* has ended."""
        return name not in self.running

    async def explain_end(self, name: str) -> str:
        """Return that it was killed."""
        return "exit code -9"

    async def used_s(self, name: str) -> float | None:
        """Return None: there is no proxy."""
        return None

    async def explain_wait(self, name: str, options: dict[str, Any]) -> str:
        """Return "": nothing waits for resources."""
        return ""

    async def nodes(self) -> dict[str, str]:
        """Return the only node."""
        return {"node": "127.0.0.1"}

    async def update_files(self, instance: Instance) -> None:
        """Do nothing: there is one node."""

    async def remove_files(self, instance: Instance) -> None:
        """Do nothing: there is one node."""

    async def end(self) -> None:
        """Note that the controller is done."""
        self.has_ended_the_controller = True
