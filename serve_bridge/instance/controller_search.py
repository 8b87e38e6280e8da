"""The search for a controller with a new address. The controller has told it to the replicas and proxies.

Rule 1: an answer is a hint. The controller proves itself when it is dialled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from serve_bridge.errors import AuthenticationError, ServeBridgeError
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.heads import decoder
from serve_bridge.wire.keys import Key, Role

MOST_ASKED: Final = 8
"""Upper limit for the number of replicas and proxies to ask."""
ANSWER_S: Final = 2.0
"""Upper limit for the answer of one of them, in seconds."""

_decode = decoder(SocketAddress)


async def find_controller(
    known: Sequence[SocketAddress], key: Key, generation: str, *, left: SocketAddress
) -> SocketAddress | None:
    """Ask some of the replicas and proxies at *known* for the address of the controller.

    Returns:
        The first answer other than *left*, the old address; None: there was no such answer.
    """
    role = key.strongest(Role.EDGE, Role.FORWARD)
    if not known or not key.holds(role):
        return None
    asked = random.sample(known, min(len(known), MOST_ASKED))
    asking = [asyncio.create_task(_ask(address, key, generation, role)) for address in asked]
    try:
        for answer in asyncio.as_completed(asking):
            found = await answer
            if found is not None and found != left:
                return found
    finally:
        for task in asking:
            task.cancel()
    return None


async def _ask(address: SocketAddress, key: Key, generation: str, role: Role) -> SocketAddress | None:
    try:
        connection = await dial(address, key, generation, role)
    except (Lost, AuthenticationError):
        return None
    try:
        async with asyncio.timeout(ANSWER_S):
            stream = connection.open(Kind.REQUEST, b"", end=True)
            return _decode((await stream.reply).payload)
    except (Lost, Aborted, Rejected, ServeBridgeError, TimeoutError):
        return None
    finally:
        connection.close()
