"""How a process learns which of its calls over Ray are done: replicas push counts over the data plane.

Ray could say so too, but would rebuild every result a second time to do it.

Rule 1: a count only grows, so a message that is late, left out or repeated costs nothing.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from serve_bridge.errors import AuthenticationError, ServeBridgeError
from serve_bridge.messages import CONTROLLER, CallHead, ReplicaAddress
from serve_bridge.wire import calls
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.connection import Aborted, Lost, Rejected, ReplicaStream
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.sockets import dial

OPERATION: Final = "@completions"
REPORT_S: Final = 0.005
"""Calls that end within this time are told of together."""
REDIAL_S: Final = 0.5
FORGET_S: Final = 60.0
"""How long a count is kept after its process left; it may only have lost its connection."""
_COUNT: Final = struct.Struct("<QI")


class _Count:
    __slots__ = ("changed", "done", "readers")

    def __init__(self) -> None:
        self.done = 0
        self.readers = 0
        self.changed = asyncio.Event()


class Completions:
    """In a replica: how many calls of each submitting process are done."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, _Count] = defaultdict(_Count)

    def note(self, submitter: str) -> None:
        """One more call of *submitter* is done."""
        count = self._counts[submitter]
        count.done += 1
        count.changed.set()

    async def report(self, stream: ReplicaStream, submitter: str, load: Callable[[], int]) -> None:
        """Tell *submitter* its count, and the replica's *load*, whenever it has grown; until it leaves."""
        count = self._counts[submitter]
        count.readers += 1
        count.changed.set()
        stream.respond(b"", end=False)
        try:
            while True:
                await count.changed.wait()
                await asyncio.sleep(REPORT_S)
                count.changed.clear()
                await stream.send_segments([_COUNT.pack(count.done, load())], end=False)
        except Lost:
            pass
        finally:
            count.readers -= 1
            asyncio.get_running_loop().call_later(FORGET_S, self._forget, submitter)
            stream.abort()

    def _forget(self, submitter: str) -> None:
        if submitter in self._counts and not self._counts[submitter].readers:
            del self._counts[submitter]


async def follow(
    address: ReplicaAddress,
    key: Key,
    generation: str,
    submitter: str,
    on_count: Callable[[int, int], None],
    wanted: Callable[[], bool],
) -> None:
    """In a submitting process: call *on_count* with what the replica at *address* reports, while it is *wanted*."""
    head = CallHead(CONTROLLER, "", 0, 1e9, submitter, OPERATION, "POST", None, True, 0, b"")
    while wanted():
        try:
            connection = await dial(address, key, generation, Role.PYTHON)
            try:
                stream = connection.open(Kind.CALL, calls.encode_call(head), end=True)
                await stream.reply
                async for message in stream.messages():
                    on_count(*_COUNT.unpack(message))
            finally:
                connection.close()
        except (Lost, Aborted, Rejected, AuthenticationError, ServeBridgeError):
            await asyncio.sleep(REDIAL_S * (0.5 + random.random()))
