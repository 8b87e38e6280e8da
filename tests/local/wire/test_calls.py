"""Operations of a controller, a replica or a proxy, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serve_bridge.errors import DeadlineExceeded
from serve_bridge.wire import calls_answered
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.frames import Frame
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream

KEY = Key(b"k" * 32)


class Service:
    """Runs three operations."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.operations: dict[str, Callable[..., Awaitable[object]]] = {
            "double": self.double,
            "hang": self.hang,
            "give_up": self.give_up,
        }

    def load(self) -> int:
        """Return 0."""
        return 0

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Run what is asked for."""
        head = calls_answered.decode_call(frame.payload)
        work = calls_answered.answer_control(stream, head, self.operations[head.call_method])
        task = asyncio.get_running_loop().create_task(work)
        stream.on_cancel = task.cancel
        self.tasks.add(task)

    async def double(self, value: int) -> int:
        """Answer."""
        return value * 2

    async def hang(self) -> None:
        """Answer never."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()

    async def give_up(self) -> None:
        """Raise what a user's hook may raise."""
        raise TimeoutError("the database did not answer")


def connected(directory: Path, main: Callable[[Service, CallerConnection], Awaitable[None]]) -> None:
    """Run *main* with a service and a connection to it."""

    async def run() -> None:
        service = Service()
        listener = Listener(service, KEY, "g", "r1")
        connection = await dial(await listener.listen(directory / "s"), KEY, "g", Role.PYTHON)
        try:
            await main(service, connection)
        finally:
            connection.close()
            listener.close()
            for _ in range(5):  # turns of the loop, in which the sockets close
                await asyncio.sleep(0)

    asyncio.run(run())


def test_an_operation_returns_its_result(tmp_path: Path) -> None:
    """Over the data plane, as any call."""

    async def main(service: Service, connection: CallerConnection) -> None:
        assert await calls.control(connection, "double", 21, timeout_s=20) == 42

    connected(tmp_path, main)


def test_an_overdue_operation_is_named_with_its_time(tmp_path: Path) -> None:
    """It may have had its effect, and is cancelled where that can be."""

    async def main(service: Service, connection: CallerConnection) -> None:
        with pytest.raises(DeadlineExceeded, match=r"^hang: no answer within 0\.05 s$") as caught:
            await calls.control(connection, "hang", timeout_s=0.05)
        assert caught.value.executed == "unknown"
        await asyncio.wait_for(service.cancelled.wait(), 20)

    connected(tmp_path, main)


def test_a_time_out_that_the_operation_raises_is_its_own(tmp_path: Path) -> None:
    """It is no news about the operation's time."""

    async def main(service: Service, connection: CallerConnection) -> None:
        with pytest.raises(TimeoutError, match="the database") as caught:
            await calls.control(connection, "give_up", timeout_s=20)
        assert type(caught.value) is TimeoutError

    connected(tmp_path, main)
