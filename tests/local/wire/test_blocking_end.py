"""Connections on blocking sockets, against a real listener in another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_bridge.errors import AuthenticationError, DeadlineExceeded, ProtocolError
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.blocking_end import BlockingConnection
from serve_bridge.wire.endings import Lost, Rejected
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream

KEY, GENERATION = Key(b"k" * 32), "g"
LARGE = 5 << 20


class Service:
    """Answers by what the head says."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    def load(self) -> int:
        """Return something that can be recognised."""
        return 7

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Answer as asked."""
        if frame.payload == b"echo":
            stream.respond(b"answer", end=True)
        elif frame.payload == b"full":
            stream.reject("full", "try later")
        elif frame.payload == b"draining":
            stream.connection.go_away()
            stream.reject("draining", "try another one")
        elif frame.payload == b"large":
            task = asyncio.get_running_loop().create_task(self.large(stream))
            self.tasks.add(task)
        elif frame.payload == b"break":
            self.tasks.add(asyncio.get_running_loop().create_task(self.broken(stream)))
        elif frame.payload == b"drop":
            stream.connection.close()
        else:
            stream.on_cancel = self.cancelled.set

    async def large(self, stream: ReplicaStream) -> None:
        """Answer with more than any window holds."""
        stream.respond(b"head", end=False)
        with suppress(Lost):
            await stream.send_segments([bytes(LARGE)], end=True)

    async def broken(self, stream: ReplicaStream) -> None:
        """Answer with a part, and no more: all in one turn of the loop."""
        stream.respond(b"head", end=False)
        await stream.send_segments([b"a part"], end=False)
        stream.abort()


@dataclass
class Listening:
    """A service that listens."""

    service: Service
    listener: Listener
    address: SocketAddress
    thread: LoopThread

    def connect(self, key: Key = KEY) -> BlockingConnection:
        """Connect to it."""
        return BlockingConnection(self.address, key, GENERATION, Role.PYTHON)

    def close(self) -> None:
        """Close every connection and socket."""

        async def close() -> None:
            self.listener.close()
            for _ in range(5):  # turns of the loop, in which the sockets close
                await asyncio.sleep(0)

        self.thread.submit(close).result(20)


@pytest.fixture(params=["unix", "tcp"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listening]:
    """Listen on a unix socket, then on TCP."""
    service, thread = Service(), LoopThread("test-listener")

    async def listen() -> tuple[Listener, SocketAddress]:
        listener = Listener(service, KEY, GENERATION, "r1")
        address = await listener.listen(tmp_path / "s", "127.0.0.1" if request.param == "tcp" else None)
        return listener, SocketAddress("r1", "" if address.tcp else address.unix, address.tcp)

    found = Listening(service, *thread.submit(listen).result(20), thread)
    yield found
    found.close()
    thread.stop()
    thread.join(20)


def test_an_answer_comes_with_the_load(listening: Listening) -> None:
    """The head, no body, and how busy the replica is."""
    connection = listening.connect()
    answer = connection.exchange(Kind.CALL, b"echo", 5)
    assert (answer.head, answer.next_part(), answer.load) == (b"answer", None, 7)
    connection.close()


def test_one_connection_serves_one_request_after_another(listening: Listening) -> None:
    """Streams are numbered on, and rejections are answers like others."""
    connection = listening.connect()
    for _ in range(3):
        assert connection.exchange(Kind.CALL, b"echo", 5).head == b"answer"
        with pytest.raises(Rejected, match="try later"):
            connection.exchange(Kind.CALL, b"full", 5)
    assert not connection.closed
    connection.close()


def test_a_rejection_of_a_draining_replica_closes_the_connection(listening: Listening) -> None:
    """GOAWAY and the rejection arrive together, and no later request would close the socket."""
    connection = listening.connect()
    with pytest.raises(Rejected, match="try another one"):
        connection.exchange(Kind.CALL, b"draining", 5)
    assert connection.closed
    assert connection._socket.fileno() == -1


def test_an_answer_larger_than_the_window_comes_whole(listening: Listening) -> None:
    """The caller returns credit while it reads."""
    connection = listening.connect()
    answer = connection.exchange(Kind.CALL, b"large", 10)
    assert (answer.head, sum(map(len, iter(answer.next_part, None)))) == (b"head", LARGE)
    connection.close()


def test_an_answer_is_read_whole_to_its_place(listening: Listening) -> None:
    """Its head has said how long it is; the connection serves the next request."""
    connection = listening.connect()
    answer = connection.exchange(Kind.CALL, b"large", 10.0)
    assert answer.read(LARGE) == bytes(LARGE)
    assert (answer.ended, connection.exchange(Kind.CALL, b"echo", 10.0).head) == (True, b"answer")
    connection.close()


@pytest.mark.parametrize("size", [LARGE - 1, LARGE + 1, 10])
def test_an_answer_of_another_size_than_its_head_says_is_refused(listening: Listening, size: int) -> None:
    """Longer or shorter."""
    connection = listening.connect()
    answer = connection.exchange(Kind.CALL, b"large", 10.0)
    with pytest.raises(ProtocolError):
        answer.read(size)
    connection.close()


def test_what_came_before_an_answer_broke_off_is_read_first(listening: Listening) -> None:
    """So that who passes it on has begun, and its own reader can tell."""
    connection = listening.connect()
    answer = connection.exchange(Kind.CALL, b"break", 5)
    assert (answer.head, answer.next_part()) == (b"head", b"a part")
    with pytest.raises(Lost, match="aborted the answer"):
        answer.next_part()
    assert connection.closed


def test_past_the_deadline_the_connection_closes_and_the_work_is_cancelled(listening: Listening) -> None:
    """Nobody waits for the answer any more, and no later answer can be taken for another's."""
    connection = listening.connect()
    with pytest.raises(DeadlineExceeded) as caught:
        connection.exchange(Kind.CALL, b"hold", 0.05)
    assert caught.value.executed == "unknown"
    assert connection.closed
    assert listening.service.cancelled.wait(20)


def test_a_peer_that_goes_in_the_middle_proves_nothing(listening: Listening) -> None:
    """The request was sent, so it may have run."""
    connection = listening.connect()
    with pytest.raises(Lost) as caught:
        connection.exchange(Kind.CALL, b"drop", 5)
    assert (caught.value.started, connection.closed) == ("unknown", True)


def test_a_peer_that_went_before_the_request_proves_that_nothing_ran(listening: Listening) -> None:
    """No byte of it was taken."""
    connection = listening.connect()
    connection.exchange(Kind.CALL, b"echo", 5)
    listening.close()
    with pytest.raises(Lost) as caught:
        connection.exchange(Kind.CALL, b"echo", 5)
    assert caught.value.started == "no"


def test_somebody_without_the_key_is_refused(listening: Listening) -> None:
    """Both sides prove themselves before anything else."""
    with pytest.raises(AuthenticationError):
        listening.connect(Key(b"x" * 32))


def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    """Nothing was sent, so the request may go elsewhere."""
    with pytest.raises(Lost) as caught:
        BlockingConnection(SocketAddress("r1", str(tmp_path / "r1.sock")), KEY, GENERATION, Role.PYTHON)
    assert caught.value.started == "no"
