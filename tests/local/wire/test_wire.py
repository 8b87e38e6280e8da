"""Connections over real sockets, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import uvloop

from serve_bridge.errors import AuthenticationError, SerializationError
from serve_bridge.wire import calls_answered
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection, CallerStream
from serve_bridge.wire.dialling import NoListener, dial, dial_running
from serve_bridge.wire.directory_lock import remove_unclaimed
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frame_writer import FLUSH_PIECES
from serve_bridge.wire.frames import END, MAX_PAYLOAD, MORE, Frame, Kind
from serve_bridge.wire.handshake import HANDSHAKE_TIMEOUT_S, MAGIC
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.socket_files import MAX_UNIX_PATH
from serve_bridge.wire.streams import ANSWER_WINDOW, FRAME_COST
from serve_bridge.wire.transport import TURN_FRAMES
from tests.support.listening import free_port
from tests.support.waiting import reached

KEY = Key(b"k" * 32)
GENERATION = "g"
Result = TypeVar("Result")
Run = Callable[[Awaitable[Result]], Result]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Run a coroutine to its end, on each loop in turn."""

    def run(main: Callable[[], Awaitable[Result]]) -> Result:
        async def limited() -> Result:
            async with asyncio.timeout(20):
                return await main()

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(limited())

    return run


class Service:
    """Answers by what the head says; keeps every stream it was given."""

    def __init__(self) -> None:
        self.streams: list[ReplicaStream] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.cancelled = asyncio.Event()
        self.produced = 0

    def load(self) -> int:
        """Return something that can be recognised."""
        return 7

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Answer, or leave the stream to the test."""
        self.streams.append(stream)
        verb = frame.payload.decode()
        if verb == "echo":
            stream.respond(b"answer", end=True)
        elif verb == "role":
            stream.respond(role.name.encode(), end=True)
        elif verb == "full":
            stream.reject("full", "try later")
        elif verb != "hold":
            task = asyncio.get_running_loop().create_task(getattr(self, verb)(stream))
            stream.on_cancel = task.cancel
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            task.add_done_callback(lambda _: stream.abort())

    async def upper(self, stream: ReplicaStream) -> None:
        """Send back what comes, as it comes."""
        stream.accept_body()
        stream.respond(b"", end=False)
        async for chunk in stream.chunks():
            await stream.send_segments([chunk.upper()], end=False)
        await stream.send_segments([], end=True)

    async def early(self, stream: ReplicaStream) -> None:
        """Answer before the body is whole."""
        stream.accept_body()
        await stream.next_chunk()
        stream.respond(b"enough", end=True)

    async def endless(self, stream: ReplicaStream) -> None:
        """Produce as fast as the caller reads."""
        stream.respond(b"", end=False)
        try:
            while True:
                await stream.send_segments([bytes(64 * 1024)], end=False)
                self.produced += 1
        finally:
            self.cancelled.set()
            stream.abort()

    async def counting(self, stream: ReplicaStream) -> None:
        """Count as far as nothing has to be waited for, and once more after waiting."""
        stream.respond(b"", end=False)
        while stream.offer(b"%d;" % self.produced):
            self.produced += 1
        await stream.send_segments([b"%d;" % self.produced], end=True)

    async def half(self, stream: ReplicaStream) -> None:
        """Break an answer off before any of its body."""
        stream.respond(b"", end=False)
        stream.abort()

    async def never(self, stream: ReplicaStream) -> None:
        """Wait to be cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
            stream.abort()


@contextlib.asynccontextmanager
async def listening(
    directory: Path, service: Service, *, tcp: bool = False
) -> AsyncIterator[tuple[Listener, SocketAddress]]:
    """Listen on a unix socket, or on TCP."""
    listener = Listener(service, KEY, GENERATION, "r1")
    directory = directory / "s"
    address = await listener.listen(directory, "127.0.0.1" if tcp else None)
    try:
        yield listener, SocketAddress("r1", "" if tcp else address.unix, address.tcp)
    finally:
        listener.close()


@contextlib.asynccontextmanager
async def connected(
    directory: Path, *, tcp: bool = False, role: Role = Role.PYTHON
) -> AsyncIterator[tuple[Service, CallerConnection, Listener]]:
    """Connect to a service."""
    service = Service()
    async with listening(directory, service, tcp=tcp) as (listener, address):
        connection = await dial(address, KEY, GENERATION, role)
        try:
            yield service, connection, listener
        finally:
            connection.close()


async def begun(service: Service, connection: CallerConnection) -> tuple[CallerStream, ReplicaStream]:
    """Open the first request of a connection; return both its ends once the head of the answer is through."""
    stream = connection.open(Kind.CALL, b"hold", end=True)
    while not service.streams:
        await connection.open(Kind.CALL, b"echo", end=True).reply
    held = service.streams[0]
    held.respond(b"", end=False)
    await stream.reply
    return stream, held


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_a_request_is_answered_with_the_replicas_load(run: Run[None], tmp_path: Path, tcp: bool) -> None:
    """One frame each way; the slot is free then."""

    async def main() -> None:
        async with connected(tmp_path, tcp=tcp) as (_, connection, _listener):
            loads: list[int] = []
            stream = connection.open(Kind.CALL, b"echo", end=True)
            stream.on_done = loads.append
            frame = await stream.reply
            assert (frame.payload, frame.flags, loads, connection.session.streams) == (
                b"answer",
                END,
                [7],
                {},
            )

    run(main)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_bodies_stream_both_ways_with_back_pressure(run: Run[None], tmp_path: Path, tcp: bool) -> None:
    """Far more than any window, in small pieces and in large ones."""

    async def main() -> None:
        async with connected(tmp_path, tcp=tcp) as (_, connection, _listener):

            async def body() -> AsyncIterator[bytes]:
                for size in (1, 0, 100_000, 3_000_000, 17):
                    yield b"x" * size
                for _ in range(9000):
                    yield b"y"

            stream = connection.open(Kind.REQUEST, b"upper", end=False)
            stream.start_upload(body())
            await stream.reply
            received = bytearray()
            async for chunk in stream.chunks():
                received += chunk
            assert received == b"X" * 3_100_018 + b"Y" * 9000

    run(main)


def test_who_does_not_read_stops_the_producer(run: Run[None], tmp_path: Path) -> None:
    """It gets one window ahead, and others are served meanwhile."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            stream = connection.open(Kind.CALL, b"endless", end=True)
            await stream.reply
            for _ in range(50):
                await connection.open(Kind.CALL, b"echo", end=True).reply
            assert service.produced <= 16
            assert await stream.next_chunk() is not None
            stream.cancel()
            await service.cancelled.wait()

    run(main)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_short_pieces_stop_at_the_window_and_stay_in_order(
    run: Run[None], tmp_path: Path, tcp: bool, others: int
) -> None:
    """Whether they leave at once or with what others send; each takes some of the window beside its bytes."""

    async def main() -> None:
        async with connected(tmp_path, tcp=tcp) as (service, connection, _listener):
            for _ in range(others):
                connection.open(Kind.CALL, b"hold", end=True)
            stream = connection.open(Kind.CALL, b"counting", end=True)
            await stream.reply
            received = b"".join([chunk async for chunk in stream.chunks()])
            assert received == b"".join(b"%d;" % number for number in range(service.produced + 1))
            assert 0 < service.produced <= ANSWER_WINDOW // FRAME_COST

    run(main)


def test_short_pieces_of_one_turn_leave_in_few_writes(run: Run[None], tmp_path: Path) -> None:
    """A write costs more than to make the piece."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            opened = [connection.open(Kind.CALL, b"hold", end=True) for _ in range(2 * FLUSH_PIECES)]
            await connection.open(Kind.CALL, b"echo", end=True).reply  # which was read after them
            held = service.streams[: len(opened)]
            for stream in held:
                stream.respond(b"", end=False)
            await asyncio.gather(*(stream.reply for stream in opened))
            before = held[0].connection.writes
            assert all(stream.offer(b"piece") for stream in held)
            assert held[0].connection.writes == before + 2
            assert [await stream.next_chunk() for stream in opened] == [b"piece"] * len(opened)

    run(main)


def test_nothing_can_be_offered_while_the_socket_takes_no_more(run: Run[None], tmp_path: Path) -> None:
    """What many streams may send by their windows would else pile up in front of it."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            stream, held = await begun(service, connection)
            held.connection.pause_writing()
            assert not held.offer(b"early")
            held.connection.resume_writing()
            assert held.offer(b"later")
            assert await stream.next_chunk() == b"later"

    run(main)


def test_nothing_more_can_be_offered_to_who_has_given_up(run: Run[None], tmp_path: Path) -> None:
    """Whoever produces goes the long way then, and is told."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            stream, held = await begun(service, connection)
            stream.cancel()
            await held.gone()
            assert not held.offer(b"piece")
            with pytest.raises(Lost):
                await held.send_segments([b"piece"], end=False)

    run(main)


def test_a_short_item_of_a_generator_is_one_frame(run: Run[None], tmp_path: Path) -> None:
    """Tokens come in items too."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            stream, held = await begun(service, connection)
            await calls_answered.answer_item(held, {"token": "word"})
            frame = await stream.next_frame()
            assert frame is not None
            assert not frame.flags & MORE

    run(main)


def test_a_reader_that_is_cancelled_leaves_the_next_piece_to_another(run: Run[None], tmp_path: Path) -> None:
    """Several may wait; each piece goes to one of them."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            stream, held = await begun(service, connection)
            leaving, first, second = [asyncio.ensure_future(stream.next_chunk()) for _ in range(3)]
            await asyncio.sleep(0)  # all of them wait
            leaving.cancel()
            for number in range(2):
                assert held.offer(b"%d" % number)
            assert {await first, await second} == {b"0", b"1"}
            assert leaving.cancelled()

    run(main)


@pytest.mark.parametrize("verb", [b"never", b"endless"])
def test_a_cancelled_request_is_cancelled_at_the_replica(run: Run[None], tmp_path: Path, verb: bytes) -> None:
    """Its slot is free once the replica has confirmed."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            stream = connection.open(Kind.CALL, verb, end=True)
            stream.on_done = done.set_result
            while not service.streams:
                await connection.open(Kind.CALL, b"echo", end=True).reply
            stream.cancel()
            await service.cancelled.wait()
            assert await done == 7
            assert connection.session.streams == {}

    run(main)


def test_a_cancelled_request_drops_what_was_not_read(run: Run[None], tmp_path: Path) -> None:
    """It may be as long as a window, and the request may last."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            stream, held = await begun(service, connection)
            assert held.offer(b"piece")
            await connection.open(Kind.CALL, b"echo", end=True).reply  # comes after the piece
            stream.cancel()
            with pytest.raises(Aborted):
                await stream.next_chunk()

    run(main)


def test_a_request_that_is_cancelled_at_once_leaves_nothing(run: Run[None], tmp_path: Path) -> None:
    """Both frames come in one read: the work does not begin, and the caller still gets the last frame."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            cancelled = connection.open(Kind.CALL, b"never", end=True)
            done = asyncio.Event()
            cancelled.on_done = lambda _: done.set()
            cancelled.cancel()
            await done.wait()
            assert not service.cancelled.is_set()
            await connection.open(Kind.CALL, b"echo", end=True).reply
            assert service.streams[0].connection.session.streams == {}

    run(main)


def test_a_rejected_upload_has_lost_nothing_of_its_body(run: Run[None], tmp_path: Path) -> None:
    """Not even the first piece was taken from its source."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            taken: list[bytes] = []

            async def body() -> AsyncIterator[bytes]:
                taken.append(b"x")
                yield b"x"

            stream = connection.open(Kind.REQUEST, b"full", end=False)
            stream.start_upload(body())
            with pytest.raises(Rejected) as caught:
                await stream.reply
            assert (caught.value.rejection.reason, taken) == ("full", [])
            await connection.open(Kind.CALL, b"echo", end=True).reply
            assert service.streams[0].connection.session.streams == {}

    run(main)


def test_an_answer_may_come_before_the_whole_body(run: Run[None], tmp_path: Path) -> None:
    """The rest is not sent; both ends forget the stream, and the connection goes on."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):

            async def body() -> AsyncIterator[bytes]:
                while True:
                    yield bytes(1000)

            stream = connection.open(Kind.REQUEST, b"early", end=False)
            stream.start_upload(body())
            assert (await stream.reply).payload == b"enough"
            await connection.open(Kind.CALL, b"echo", end=True).reply
            assert service.streams[0].connection.session.streams == {}

    run(main)


def test_a_body_whose_source_breaks_is_cancelled(run: Run[None], tmp_path: Path) -> None:
    """Whoever asked gets the source's error."""

    async def main() -> None:
        async with connected(tmp_path) as (_, connection, _listener):

            async def body() -> AsyncIterator[bytes]:
                yield b"x"
                raise KeyError("source")

            stream = connection.open(Kind.REQUEST, b"upper", end=False)
            stream.start_upload(body())
            await stream.reply
            with pytest.raises(KeyError):
                async for _ in stream.chunks():
                    pass

    run(main)


def test_an_answer_that_is_broken_off_is_no_whole_answer(run: Run[None], tmp_path: Path) -> None:
    """Also if nobody had begun to read."""

    async def main() -> None:
        async with connected(tmp_path) as (_, connection, _listener):
            stream = connection.open(Kind.CALL, b"half", end=True)
            await stream.reply
            await connection.open(Kind.CALL, b"echo", end=True).reply
            with pytest.raises(Aborted):
                await stream.next_chunk()

    run(main)


def test_goaway_denies_what_comes_after_it_and_lets_the_rest_finish(run: Run[None], tmp_path: Path) -> None:
    """Then the connection closes by itself."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, listener):
            changed: asyncio.Queue[bool] = asyncio.Queue()
            connection.on_change = lambda: changed.put_nowait(connection.closed)
            accepted = connection.open(Kind.CALL, b"hold", end=True)
            await connection.open(Kind.CALL, b"echo", end=True).reply
            listener.go_away()
            late = connection.open(Kind.CALL, b"never", end=True)
            with pytest.raises(Lost) as caught:
                await late.reply
            assert caught.value.started == "no"
            with pytest.raises(Lost):
                connection.open(Kind.CALL, b"echo", end=True)
            assert await changed.get() is False
            service.streams[0].respond(b"kept", end=True)
            assert (await accepted.reply).payload == b"kept"
            assert await changed.get() is True
            assert len(service.streams) == 2

    run(main)


def test_a_connection_that_ends_leaves_what_is_in_flight_unknown(run: Run[None], tmp_path: Path) -> None:
    """The head, and a body that was being read."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, listener):
            waiting = connection.open(Kind.CALL, b"hold", end=True)
            started = connection.open(Kind.CALL, b"hold", end=True)
            await connection.open(Kind.CALL, b"echo", end=True).reply
            service.streams[1].respond(b"", end=False)
            await started.reply
            listener.close()
            for lost in (waiting.reply, started.next_chunk()):
                with pytest.raises(Lost) as caught:
                    await lost
                assert caught.value.started == "unknown"
            with pytest.raises(Lost) as caught:
                connection.open(Kind.CALL, b"echo", end=True)
            assert caught.value.started == "no"

    run(main)


def test_a_request_that_was_never_written_did_not_start(run: Run[None], tmp_path: Path) -> None:
    """The connection broke in the turn of the loop in which it was opened; one written before is unknown."""

    async def main() -> None:
        async with connected(tmp_path) as (_, connection, _listener):
            written = connection.open(Kind.CALL, b"hold", end=True)
            await connection.open(Kind.CALL, b"echo", end=True).reply
            connection.ping()
            unwritten = connection.open(Kind.CALL, b"echo", end=True)
            connection.close(OSError("broken"))
            started = []
            for stream in (written, unwritten):
                with pytest.raises(Lost) as caught:
                    await stream.reply
                started.append(caught.value.started)
            assert started == ["unknown", "no"]

    run(main)


def test_a_replica_learns_that_its_caller_has_gone(run: Run[None], tmp_path: Path) -> None:
    """Its work is cancelled."""

    async def main() -> None:
        async with connected(tmp_path) as (service, connection, _listener):
            connection.open(Kind.CALL, b"never", end=True)
            await connection.open(Kind.CALL, b"echo", end=True).reply
            connection.close()
            await service.cancelled.wait()

    run(main)


def test_an_edge_cannot_send_python_calls(run: Run[None], tmp_path: Path) -> None:
    """The connection is closed before anything of the call is read."""

    async def main() -> None:
        async with connected(tmp_path, role=Role.EDGE) as (service, connection, _listener):
            assert (await connection.open(Kind.REQUEST, b"role", end=True).reply).payload == b"EDGE"
            with pytest.raises(Lost):
                await connection.open(Kind.CALL, b"echo", end=True).reply
            assert len(service.streams) == 1

    run(main)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize(("key", "generation"), [(Key(), GENERATION), (KEY, "other")], ids=["key", "identity"])
def test_a_caller_that_does_not_belong_gets_nowhere(
    run: Run[None], tmp_path: Path, tcp: bool, key: Key, generation: str
) -> None:
    """Its requests are never seen."""

    async def main() -> None:
        service = Service()
        async with listening(tmp_path, service, tcp=tcp) as (_, address):
            with pytest.raises((AuthenticationError, Lost)):
                await dial(address, key, generation, Role.PYTHON)
            assert service.streams == []

    run(main)


@pytest.mark.parametrize("said", [b"", MAGIC, b"GET / HTTP/1.1\r\n\r\n", bytes(64)], ids=repr)
def test_a_stranger_is_cut_off_without_a_word(run: Run[None], tmp_path: Path, said: bytes) -> None:
    """At once, or when its second is over."""

    async def main() -> None:
        async with listening(tmp_path, Service(), tcp=True) as (listener, address):
            assert address.tcp is not None
            reader, writer = await asyncio.open_connection(*address.tcp)
            writer.write(said)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S * 5):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
            assert listener.connections == {}

    run(main)


def test_a_listener_that_cannot_prove_itself_is_an_authentication_error(run: Run[None], tmp_path: Path) -> None:
    """It is told apart from one that is not there."""

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(bytes(96))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            address = SocketAddress("r1", "", server.sockets[0].getsockname()[:2])
            with pytest.raises(AuthenticationError):
                await dial(address, KEY, GENERATION, Role.PYTHON)

    run(main)


def test_nobody_there_is_lost_and_nothing_was_sent(run: Run[None], tmp_path: Path) -> None:
    """A dead socket file, and none at all."""

    async def main() -> None:
        dead = tmp_path / "dead.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(dead))
        for path in (str(dead), str(tmp_path / "none.sock")):
            with pytest.raises(Lost) as caught:
                await dial(SocketAddress("r1", path), KEY, GENERATION, Role.PYTHON)
            assert caught.value.started == "no"

    run(main)


def test_a_process_that_is_slow_to_answer_is_dialled_again(run: Run[None], tmp_path: Path) -> None:
    """It has ended only when nobody listens any more: a controller that comes back must not end what it finds."""

    async def main() -> None:
        path = tmp_path / "r1.sock"
        dialled = 0

        async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal dialled
            dialled += 1
            if dialled == 2:
                server.close()
                await listener.listen(tmp_path)
            writer.close()

        listener = Listener(Service(), KEY, GENERATION, "r1")
        server = await asyncio.start_unix_server(break_off, path)
        path.chmod(0o600)
        try:
            connection = await dial_running(SocketAddress("r1", str(path)), KEY, GENERATION, Role.PYTHON)
            assert (dialled, connection.usable) == (2, True)
            connection.close()
        finally:
            server.close()
            listener.close()

    run(main)


def test_a_process_that_has_ended_is_dialled_once(run: Run[None], tmp_path: Path) -> None:
    """Nobody listens at its socket."""

    async def main() -> None:
        path = tmp_path / "r1.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        path.chmod(0o600)
        for _ in ("dead", "none"):
            with pytest.raises(NoListener):
                await dial_running(SocketAddress("r1", str(path)), KEY, GENERATION, Role.PYTHON)
            path.unlink(missing_ok=True)

    run(main)


def test_a_socket_is_its_users_alone(run: Run[None], tmp_path: Path) -> None:
    """0600 in a 0700 directory, and gone when nobody is accepted any more."""

    async def main() -> None:
        async with listening(tmp_path, Service()) as (listener, address):
            path = Path(address.unix)
            modes = [stat.S_IMODE(os.stat(found).st_mode) for found in (path, path.parent)]
            listener.stop_accepting()
            assert (modes, os.path.exists(path)) == ([0o600, 0o700], False)  # noqa: ASYNC240

    run(main)


def test_a_path_that_no_socket_can_have_is_refused(run: Run[None], tmp_path: Path) -> None:
    """The message says what to do about it."""

    async def main() -> None:
        with pytest.raises(OSError, match="XDG_RUNTIME_DIR"):
            await Listener(Service(), KEY, GENERATION, "r" * MAX_UNIX_PATH).listen(tmp_path)

    run(main)


def test_a_listener_that_is_cancelled_while_it_begins_leaves_nothing(run: Run[None], tmp_path: Path) -> None:
    """Its process ends while it starts, and the instance removes the directory."""

    async def main() -> None:
        directory = tmp_path / "sockets"
        listener = Listener(Service(), KEY, GENERATION, "r1")
        beginning = asyncio.ensure_future(listener.listen(directory, "127.0.0.1"))
        await asyncio.sleep(0)
        beginning.cancel()
        await asyncio.wait([beginning])
        found = [path.name for path in directory.iterdir()], remove_unclaimed(directory)
        listener.close()
        assert beginning.cancelled()
        assert found == (["lock"], True)

    run(main)


def test_a_port_that_another_process_takes_in_the_last_moment_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between bind and listen: uvloop then returns a server without a socket, as the loop of this test does."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        create = loop.create_server
        asked: list[int] = []

        async def create_server(protocol: Any, host: str, port: int, **options: Any) -> Any:
            asked.append(port)
            if len(asked) == 1:
                return SimpleNamespace(sockets=(None,), close=lambda: None)
            return await create(protocol, host, port, **options)

        monkeypatch.setattr(loop, "create_server", create_server)
        listener = Listener(Service(), KEY, GENERATION, "r1")
        ports = free_port(), free_port()
        address = await listener.listen(tmp_path, "127.0.0.1", ports)
        listener.close()
        assert address.tcp == ("127.0.0.1", ports[1])
        assert asked == list(ports)

    asyncio.run(main())


def test_a_socket_that_is_a_link_is_refused(run: Run[None], tmp_path: Path) -> None:
    """It could lead to somebody else's."""

    async def main() -> None:
        async with listening(tmp_path, Service()) as (_, address):
            link = tmp_path / "link.sock"
            link.symlink_to(address.unix)
            with pytest.raises(AuthenticationError, match="remove it"):
                await dial(SocketAddress("r1", str(link)), KEY, GENERATION, Role.PYTHON)

    run(main)


def test_tcp_that_is_changed_on_the_way_is_cut_off(run: Run[None], tmp_path: Path) -> None:
    """No frame is read from a record whose MAC does not fit."""

    async def main() -> None:
        service = Service()
        async with listening(tmp_path, service, tcp=True) as (_, address):
            assert address.tcp is not None
            target = address.tcp

            async def tamper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                up_reader, up = await asyncio.open_connection(*target)
                up.write(await reader.readexactly(64))
                writer.write(await up_reader.readexactly(96))
                up.write(await reader.readexactly(32))
                record = bytearray(await reader.read(1000))
                record[-1] ^= 1
                up.write(record)
                with contextlib.suppress(ConnectionResetError):
                    assert await up_reader.read() == b""
                up.close()
                writer.close()

            async with await asyncio.start_server(tamper, "127.0.0.1", 0) as proxy:
                between = SocketAddress("r1", "", proxy.sockets[0].getsockname()[:2])
                connection = await dial(between, KEY, GENERATION, Role.PYTHON)
                with pytest.raises(Lost):
                    await connection.open(Kind.CALL, b"echo", end=True).reply
                assert service.streams == []

    run(main)


def test_a_ping_is_answered(run: Run[None], tmp_path: Path) -> None:
    """Whoever asks hears something."""

    async def main() -> None:
        async with connected(tmp_path) as (_, connection, _listener):
            connection.last_heard = 0.0
            connection.ping()
            await connection.open(Kind.CALL, b"echo", end=True).reply
            assert connection.last_heard > 0

    run(main)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_a_read_of_many_frames_takes_several_turns_of_the_loop(run: Run[None], tmp_path: Path, tcp: bool) -> None:
    """At either end other work runs in between, and the order stays."""

    async def main() -> None:
        turn = 0
        loop = asyncio.get_running_loop()

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(next_turn)

        class Counting(Service):
            def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
                accepted.append((turn, stream.id))
                self.streams.append(stream)

        accepted: list[tuple[int, int]] = []
        answered: list[tuple[int, int]] = []
        service = Counting()
        async with listening(tmp_path, service, tcp=tcp) as (_, address):
            connection = await dial(address, KEY, GENERATION, Role.PYTHON)
            next_turn()
            opened = [connection.open(Kind.CALL, b"", end=True) for _ in range(20 * TURN_FRAMES)]
            for stream in opened:
                stream.on_done = lambda _, stream=stream: answered.append((turn, stream.id))
            await reached(lambda: len(service.streams) == len(opened))
            for held in service.streams:
                held.respond(b"", end=True)
            await asyncio.gather(*(stream.reply for stream in opened))
            connection.close()
        for handled in accepted, answered:
            assert [id for _, id in handled] == [stream.id for stream in opened]
            # One read may end in a turn and the next one begin.
            assert max(Counter(turn for turn, _ in handled).values()) < 2 * TURN_FRAMES

    run(main)


def test_a_head_that_is_too_large_costs_one_request_only(run: Run[None], tmp_path: Path) -> None:
    """It is not sent, and the connection stays."""

    async def main() -> None:
        async with connected(tmp_path) as (_, connection, _listener):
            with pytest.raises(SerializationError):
                connection.open(Kind.CALL, bytes(MAX_PAYLOAD + 1), end=True)
            assert (await connection.open(Kind.CALL, b"echo", end=True).reply).payload == b"answer"

    run(main)


class Operations(Service):
    """Answers calls of operations."""

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Run the operation that the head names."""
        head = calls_answered.decode_call(frame.payload)
        work = calls_answered.answer_control(stream, head, getattr(self, head.call_method))
        task = asyncio.get_running_loop().create_task(work)
        stream.on_cancel = task.cancel
        self.tasks.add(task)

    async def swap(self, left: object, right: object) -> tuple[object, object]:
        """Return both, the other way round."""
        return right, left

    async def fail(self) -> None:
        """Raise."""
        raise LookupError("not here")


def test_an_operation_returns_what_it_returns(run: Run[None], tmp_path: Path) -> None:
    """With arguments and a result of any size, or an exception of its own type."""

    async def main() -> None:
        async with listening(tmp_path, Operations()) as (_, address):
            connection = await dial(address, KEY, GENERATION, Role.PYTHON)
            assert await calls.control(connection, "swap", 1, right="b", timeout_s=10) == ("b", 1)
            large = bytes(3_000_000)
            assert await calls.control(connection, "swap", 1, large, timeout_s=10) == (large, 1)
            with pytest.raises(LookupError, match="not here"):
                await calls.control(connection, "fail", timeout_s=10)
            connection.close()

    run(main)
