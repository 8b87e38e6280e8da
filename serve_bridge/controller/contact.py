"""Contact of the controller with a process of its instance, over the data plane: lost, regained, or gone for good.

Rule 1: a broken connection is no death. The process is dialled again until it answers or has certainly ended.
Rule 2: while nothing of its host can be reached, silence says nothing about a process. It counts once the host answers.
Rule 3: nothing here waits for the control plane of Ray, but for the word that a process has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from serve_bridge.errors import AuthenticationError
from serve_bridge.process.backoff import Backoff
from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.listener import CONNECT_TIMEOUT_S, TRIES, NobodyListens, dial, places_of

REDIAL: Final = Backoff(shortest_s=0.05, longest_s=1.0)
"""Waits between the tries to connect to a process again."""


async def regained(
    address: ReplicaAddress, key: Key, generation: str, role: Role, has_ended: Callable[[], Awaitable[bool]]
) -> CallerConnection | None:
    """Return a new connection to a process whose connection broke; None once the process has ended or hangs.

    It takes as long as its host cannot be reached and *has_ended* returns False.
    """
    unanswered = 0
    for wait_s in REDIAL.waits_s():
        try:
            return await dial(address, key, generation, role)
        except (NobodyListens, AuthenticationError):
            return None
        except Lost:
            if await host_answers(address):
                unanswered += 1
            elif await has_ended():
                return None
        if unanswered >= TRIES:
            break
        await asyncio.sleep(wait_s)
    return None


async def host_answers(address: ReplicaAddress) -> bool:
    """Return whether the host of *address* can be reached, whatever becomes of the process there."""
    try:
        place = places_of(address)[-1]
    except NobodyListens:
        return True  # it is this host
    if isinstance(place, str):
        return True
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            transport, _ = await loop.create_connection(asyncio.Protocol, *place)
    except ConnectionRefusedError:
        return True
    except OSError:  # TimeoutError too
        return False
    transport.abort()
    return True
