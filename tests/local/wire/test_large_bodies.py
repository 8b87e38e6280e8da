"""Large bodies on a connection that others use: they come whole, straight to their place, and nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from serve_bridge.errors import ProtocolError
from serve_bridge.replica import request_body
from serve_bridge.replica.request_body import IncomingBody
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.body import CHUNK_BYTES
from serve_bridge.wire.caller_end import CallerConnection, CallerStream
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.payload import apack, aunpack
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.segments import join
from serve_bridge.wire.space import HUGE_BYTES
from tests.support.waiting import reached

KEY, GENERATION = Key(b"k" * 32), "g"
LARGE = 16 << 20
AHEAD = 32
"""Pieces of a large body that may pass between a question and its answer: two windows and what sockets hold."""
PATTERN = bytes(range(251)) * 4096

T = TypeVar("T")
Run = Callable[[Callable[[], Awaitable[None]]], None]


def body_of(size: int) -> bytes:
    """Return bytes in which a piece that is left out, doubled or moved shows."""
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


class Service:
    """Answers by what the head says: a verb and a size."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.taken = 0

    def load(self) -> int:
        """Return anything."""
        return 0

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Start the work that is asked for."""
        verb, size = frame.payload.decode().split()
        if verb == "ping":
            stream.respond(b"pong", end=True)
            return
        task = asyncio.get_running_loop().create_task(getattr(self, verb)(stream, int(size)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def send(self, stream: ReplicaStream, size: int) -> None:
        """Answer with a body of *size* bytes."""
        stream.respond(b"", end=False)
        with contextlib.suppress(Lost):
            await stream.send_segments([body_of(size)], end=True)
        stream.abort()  # nothing, if all of it was sent

    async def take(self, stream: ReplicaStream, size: int) -> None:
        """Take a body piece by piece."""
        stream.accept_body()
        async for _ in stream.chunks():
            self.taken += 1
        stream.respond(b"", end=True)

    async def echo(self, stream: ReplicaStream, size: int) -> None:
        """Read a whole body of *size* bytes, and send it back."""
        stream.accept_body()
        body = await stream.read(size)
        stream.respond(b"", end=False)
        await stream.send_segments([body], end=True)

    async def turn(self, stream: ReplicaStream, size: int) -> None:
        """Answer in how many turns of the loop a body is read of which the last *size* bytes are here already."""
        body = IncomingBody(stream)
        await body.next()
        await reached(lambda: stream.body_ended)
        loop = asyncio.get_running_loop()
        turns = 0

        def next_turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(next_turn)

        next_turn()
        while await body.next():
            pass
        stream.respond(b"%d" % turns, end=True)

    async def leave(self, stream: ReplicaStream, size: int) -> None:
        """Close the connection in the middle of a body of *size* bytes."""
        stream.respond(b"", end=False)
        await stream.send_segments([body_of(size // 2)], end=False)
        stream.connection.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine to its end, on each loop in turn."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(30):
                await main()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(limited())

    return run


@pytest.fixture(params=["unix", "tcp"])
def connected(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], contextlib.AbstractAsyncContextManager[tuple[Service, CallerConnection]]]:
    """Connects to a service, over each kind of socket in turn."""

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[tuple[Service, CallerConnection]]:
        service = Service()
        listener = Listener(service, KEY, GENERATION, "r1")
        address = await listener.listen(tmp_path / "s", "127.0.0.1" if request.param == "tcp" else None)
        address = SocketAddress("r1", "" if request.param == "tcp" else address.unix, address.tcp)
        connection = await dial(address, KEY, GENERATION, Role.PYTHON)
        try:
            yield service, connection
        finally:
            connection.close()
            listener.close()

    return connected


Connected = Callable[[], contextlib.AbstractAsyncContextManager[tuple[Service, CallerConnection]]]


async def ping(connection: CallerConnection) -> None:
    """Ask a small question and wait for its answer."""
    assert (await connection.open(Kind.CALL, b"ping 0", end=True).reply).payload == b"pong"


def upload(connection: CallerConnection, verb: str, size: int) -> CallerStream:
    """Open a stream with a body of *size* bytes."""
    stream = connection.open(Kind.CALL, f"{verb} {size}".encode(), end=False)
    stream.start_upload([body_of(size)])
    return stream


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 1_000_000, HUGE_BYTES + 12_345])
def test_a_body_that_is_read_whole_comes_as_it_was_sent(run: Run, connected: Connected, size: int) -> None:
    """Up and down, by two at once, and with questions of others between its pieces."""

    async def main() -> None:
        async with connected() as (_, connection):

            async def echo() -> None:
                stream = upload(connection, "echo", size)
                await stream.reply
                assert await stream.read(size) == body_of(size)

            both = asyncio.gather(echo(), echo())
            while not both.done():
                await ping(connection)
            await both
            assert connection.session.streams == {}

    run(main)


def test_a_body_that_is_here_is_read_in_several_turns(
    run: Run, connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that reads it may take long for each piece, and other requests go on in between."""
    monkeypatch.setattr(request_body, "TURN_S", 0)

    async def main() -> None:
        async with connected() as (_, connection):
            reply = await upload(connection, "turn", 6 * CHUNK_BYTES).reply
            assert int(reply.payload) >= 5

    run(main)


@pytest.mark.parametrize("announced", [100_000, 3_000_000])
def test_a_body_of_another_size_than_announced_is_refused(run: Run, connected: Connected, announced: int) -> None:
    """Shorter or longer; the others on the connection go on."""

    async def main() -> None:
        async with connected() as (_, connection):
            for size in (announced - 1, announced + 1, announced + 2_000_000):
                stream = connection.open(Kind.CALL, f"send {size}".encode(), end=True)
                await stream.reply
                with pytest.raises(ProtocolError):
                    await stream.read(announced)
                stream.cancel()
            await ping(connection)

    run(main)


def test_a_connection_that_ends_within_a_body_is_lost(run: Run, connected: Connected) -> None:
    """What has come so far is nobody's."""

    async def main() -> None:
        async with connected() as (_, connection):
            stream = connection.open(Kind.CALL, f"leave {LARGE}".encode(), end=True)
            await stream.reply
            with pytest.raises(Lost):
                await stream.read(LARGE)

    run(main)


def test_who_gives_a_large_body_up_leaves_the_connection_usable(run: Run, connected: Connected) -> None:
    """What was on its way to its place goes nowhere."""

    async def main() -> None:
        async with connected() as (_, connection):
            stream = connection.open(Kind.CALL, f"send {LARGE}".encode(), end=True)
            await stream.reply
            reading = asyncio.create_task(stream.read(LARGE))
            for _ in range(5):
                await ping(connection)
            reading.cancel()
            stream.cancel()
            for _ in range(5):
                await ping(connection)
            assert connection.session.streams == {}

    run(main)


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
def test_small_answers_pass_a_large_one(run: Run, connected: Connected, whole: bool) -> None:
    """Between a question and its answer only a bounded number of the large answer's pieces come."""

    async def main() -> None:
        async with connected() as (_, connection):
            stream = connection.open(Kind.CALL, f"send {LARGE}".encode(), end=True)
            await stream.reply
            pieces = 0

            async def drain() -> None:
                nonlocal pieces
                async for _ in stream.chunks():
                    pieces += 1

            reading: asyncio.Task[object] = asyncio.create_task(stream.read(LARGE) if whole else drain())
            most = answered = 0
            while not reading.done():
                before = pieces if not whole else filled(stream)
                await ping(connection)
                most = max(most, (pieces if not whole else filled(stream)) - before)
                answered += 1
            await reading
            assert (most <= AHEAD, answered >= LARGE // CHUNK_BYTES // AHEAD) == (True, True)

    run(main)


def filled(stream: CallerStream) -> int:
    """Return how many pieces of the body that is being read whole have come."""
    return 0 if stream.space is None else (LARGE - len(stream.space)) // CHUNK_BYTES


def test_small_questions_pass_a_large_body(run: Run, connected: Connected) -> None:
    """Between a question and its answer only a bounded number of the large upload's pieces come."""

    async def main() -> None:
        async with connected() as (service, connection):
            stream = upload(connection, "take", LARGE)
            most = answered = 0
            while not stream.reply.done():
                before = service.taken
                await ping(connection)
                most = max(most, service.taken - before)
                answered += 1
            assert (most <= AHEAD, answered >= LARGE // CHUNK_BYTES // AHEAD) == (True, True)

    run(main)


def test_a_loop_goes_on_while_a_long_value_is_packed_and_unpacked(run: Run) -> None:
    """It is done on a thread, which lets the loop have its turn."""

    async def turns(work: Awaitable[T]) -> tuple[T, int]:
        task, count = asyncio.ensure_future(work), 0
        while not task.done():
            count += 1
            await asyncio.sleep(0)
        return task.result(), count

    async def main() -> None:
        value = list(range(1_000_000))
        segments, packing = await turns(apack(value))
        found, unpacking = await turns(aunpack(join(segments)))
        assert found == value
        assert min(packing, unpacking) > 1  # without a thread, the turn that begins the work ends it

    run(main)


def test_what_was_yielded_may_change_afterwards(run: Run, connected: Connected) -> None:
    """`send_segments` returns only when nothing of its views is needed any more."""

    async def main() -> None:
        async with connected() as (service, connection):

            async def items(stream: ReplicaStream, size: int) -> None:
                stream.respond(b"", end=False)
                item = bytearray(size)
                for number in range(4):
                    item[:] = bytes([number]) * size
                    await stream.send_segments([item], end=False)
                await stream.send_segments([], end=True)

            service.items = items  # type: ignore[attr-defined]

            async def read() -> None:
                stream = connection.open(Kind.CALL, b"items 100000", end=True)
                await stream.reply
                found = [bytes(message) async for message in stream.messages()]
                assert found == [bytes([number]) * 100_000 for number in range(4)] + [b""]

            await asyncio.gather(*(read() for _ in range(40)))  # so many that the socket is full

    run(main)
