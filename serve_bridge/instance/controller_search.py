"""Where the controller is, if it is no longer where it was: replicas and proxies know, since it has told them.

Rule 1: the question is an empty REQUEST, which the role of strangers may ask too; the answer is no pickle.
Rule 2: an answer is a hint. The controller proves itself where it is dialled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import msgspec

from serve_bridge.errors import AuthenticationError, ServeBridgeError
from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.heads import decoder
from serve_bridge.wire.listener import dial
from serve_bridge.wire.replica_end import ReplicaStream

MOST_ASKED: Final = 8
ANSWER_S: Final = 2.0

_encode = msgspec.msgpack.Encoder().encode
_decode = decoder(ReplicaAddress)


def is_question(frame: Frame) -> bool:
    """Return whether *frame*, a REQUEST, asks where the controller is."""
    return not frame.payload


def answer(stream: ReplicaStream, controller: ReplicaAddress) -> None:
    """Tell the caller that the controller is at *controller*."""
    stream.respond(_encode(controller), end=True)


async def find_controller(
    known: Sequence[ReplicaAddress], key: Key, generation: str, *, left: ReplicaAddress
) -> ReplicaAddress | None:
    """Ask some of the replicas and proxies at *known* where the controller is, which has *left* a place.

    Returns:
        The first place that differs from that; None if there is no such answer.
    """
    if not known or not key.holds(Role.EDGE):
        return None
    asked = random.sample(known, min(len(known), MOST_ASKED))
    asking = [asyncio.create_task(_ask(address, key, generation)) for address in asked]
    try:
        for answer in asyncio.as_completed(asking):
            found = await answer
            if found is not None and found != left:
                return found
    finally:
        for task in asking:
            task.cancel()
    return None


async def _ask(address: ReplicaAddress, key: Key, generation: str) -> ReplicaAddress | None:
    try:
        connection = await dial(address, key, generation, Role.EDGE)
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
