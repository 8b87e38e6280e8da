"""Where the controller listens, and the instance which clients find there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from serve_bridge.config.addresses import split
from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.instance.instance import Instance
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire.keys import Key
from serve_bridge.wire.listener import Listener


async def listening_instance(spec: InstanceSpec, state: CommittedState, listener: Listener, key: Key) -> Instance:
    """Listen with *listener*, note its TCP port in *state*, and return the instance.

    Raises:
        OSError, ValueError: The controller cannot listen at its address.
    """
    network = spec.network
    # A given port is kept. Another one is also kept after a restart of the controller, if it is free.
    given = 0 if network.listen is None else split(network.listen)[1]
    ports = (given,) if given else (state.tcp_port, 0) if state.tcp_port else (0,)
    advertised = network.advertised(spec.tcp_host or "")
    address = await listener.listen(Path(spec.directory), spec.tcp_host, ports, advertised)
    state.tcp_port = address.tcp[1] if address.tcp else 0
    if address.tcp is not None and network.advertised_port is not None:
        address = msgspec.structs.replace(address, tcp=(advertised, network.advertised_port))
    return Instance(
        name=spec.name,
        generation=spec.generation,
        runtime=spec.runtime,
        directory=spec.directory,
        controller=address,
        secret="",
        tls=key.tls,
    ).with_key(key)
