"""The controller as a Ray actor: a shell around `Controller`."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from typing import Final

from serve_bridge.config.addresses import joined, split
from serve_bridge.errors import ConfigError
from serve_bridge.instance.instance import Instance
from serve_bridge.runtimes.ray.actors import log_to_stderr, own_directory, own_host, own_node
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire.keys import Key

RESTART_S: Final = 1.0
"""Seconds before a controller ends its process after a failed recovery. Ray then starts it again."""

_logger = logging.getLogger("serve_bridge.controller")


def _here(spec: InstanceSpec) -> InstanceSpec:
    """Return *spec* for the node of this process. Away from the node of the start, it listens on the same port there.

    So an instance lives on after the loss of its first node, although its address does not.
    """
    host, directory = own_host(spec.tcp_host, spec.node), own_directory(spec.directory, spec.node)
    network = spec.network
    if network.listen is not None and host is not None and spec.node != own_node():
        network = replace(network, listen=joined(host, split(network.listen)[1]), advertise=None)
    return replace(spec, tcp_host=host, directory=directory, network=network, node=own_node())


class ControllerActor:
    """The controller in its process. If the process ends, Ray restarts it, on another node if necessary."""

    async def __init__(self, spec: InstanceSpec, key: Key) -> None:  # type: ignore[misc]  # Ray awaits it
        # Late: the process that starts an instance creates this actor, and needs no controller.
        from serve_bridge.controller.controller import Controller
        from serve_bridge.runtimes.ray.runtime import KVStore, RayRuntime

        log_to_stderr()
        spec = _here(spec)
        self._controller = Controller(spec, key, RayRuntime(spec))
        self._start: asyncio.Future[Instance] | None = None
        if await KVStore(spec.generation).get("checkpoint") is not None:
            self._start = asyncio.get_running_loop().create_future()
            self._start.set_result(await self._recovered())

    async def _recovered(self) -> Instance:
        try:
            return await self._controller.start()
        except ConfigError:
            raise
        except Exception:  # Ray does not restart an actor whose constructor raises, but one whose process ends
            _logger.exception("the controller cannot recover, and tries again in a new process")
            await asyncio.sleep(RESTART_S)
            os._exit(1)

    async def start(self) -> Instance:
        """Start the instance, unless another call has begun that; return it once it has started."""
        if self._start is None:
            self._start = asyncio.ensure_future(self._controller.start())
        # The start continues if Ray cancels one of the calls, because its process has ended.
        return await asyncio.shield(self._start)

    async def ping(self) -> None:
        """Answer while the controller lives."""

    async def is_ending(self) -> bool:
        """Return whether the instance ends soon; see `Controller.is_ending`."""
        return self._controller.is_ending
