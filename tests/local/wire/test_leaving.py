"""A listener leaves while callers connect: each caller learns that its request has not started."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trustme
import uvloop

from serve_bridge.config.tls import Tls
from serve_bridge.errors import AuthenticationError
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.blocking_end import BlockingConnection
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frames import MAX_PAYLOAD, Frame, Kind, encode
from serve_bridge.wire.handshake import HELLO_BYTES, Handshake, identity
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.socket_files import bind_unix
from tests.support.certificates import make_tls
from tests.support.waiting import wait_until

KEY, GENERATION = Key(b"k" * 32), "g"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
FLIGHTS = {"unix": 1, "tcp": 1, "tls": 2}
"""The flights of a caller up to its hello. With TLS, the first one is TLS's own."""


class Service:
    """Counts the requests that have started."""

    def __init__(self) -> None:
        self.started = 0

    def load(self) -> int:
        """Return anything."""
        return 0

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Start the request, and answer it."""
        self.started += 1
        stream.respond(b"answer", end=True)


@dataclass
class Engine:
    """A listener on a loop of its own."""

    service: Service
    listener: Listener
    thread: LoopThread
    address: SocketAddress
    tls: Tls | None
    transport: str

    def leave(self) -> None:
        """Let the listener leave, within seconds."""
        self.thread.submit(self.listener.leave).result(10)

    def close(self) -> None:
        """Close the sockets, as the end of the process does."""

        async def close() -> None:
            self.listener.close()
            for _ in range(5):  # turns of the loop, in which the sockets close
                await asyncio.sleep(0)

        self.thread.submit(close).result(10)

    def place(self, path: str, tcp: tuple[str, int] | None) -> SocketAddress:
        """Return the address of this listener by another way."""
        return SocketAddress("r", "" if tcp else path, tcp)


@pytest.fixture(params=FLIGHTS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A listener on a unix socket, on TCP, and on TCP with TLS."""
    tls = make_tls(tmp_path, "engine", trustme.CA()) if request.param == "tls" else None
    service, thread = Service(), LoopThread("engine")
    listener = Listener(service, KEY.with_tls(tls), GENERATION, "r")
    host = None if request.param == "unix" else "127.0.0.1"

    async def listen() -> SocketAddress:
        return await listener.listen(tmp_path / "s", host)

    address = thread.submit(listen).result(10)
    engine = Engine(service, listener, thread, address, tls, request.param)
    engine.address = engine.place(address.unix, address.tcp)
    yield engine
    engine.close()
    thread.stop()
    thread.join(10)


class Gate:
    """A slow network before a listener: it holds back what a caller sends after its first flights.

    Attributes:
        address: The address for the caller.
        held: Set once the gate holds bytes.
    """

    def __init__(self, engine: Engine, directory: Path, passes: int) -> None:
        self._engine = engine
        self._passes = passes
        self.held = threading.Event()
        if engine.transport == "unix":
            self._listening = bind_unix(str(directory / "gate" / "r.sock"))
            self._listening.setblocking(True)
            self._listening.listen()
            self.address = engine.place(str(directory / "gate" / "r.sock"), None)
        else:
            self._listening = socket.create_server(("127.0.0.1", 0))
            self.address = engine.place("", self._listening.getsockname())
        self._open: list[socket.socket] = [self._listening]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """End all connections."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            caller, _ = self._listening.accept()
            target = self._engine.address
            server = socket.socket(socket.AF_INET if target.tcp else socket.AF_UNIX)
            server.connect(target.tcp or target.unix)
            self._open += [caller, server]
            back = threading.Thread(target=self._pass_answers, args=(server, caller))
            self._threads.append(back)
            back.start()
            self._pass_flights(caller, server)

    def _pass_flights(self, caller: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(self._passes):
                server.sendall(caller.recv(1 << 16))
            while caller.recv(1 << 16):
                self.held.set()
            server.shutdown(socket.SHUT_RDWR)  # the caller has closed

    def _pass_answers(self, server: socket.socket, caller: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                caller.sendall(data)
            caller.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def gate(engine: Engine, tmp_path: Path) -> Iterator[Callable[[int], Gate]]:
    """Make a gate that passes so many flights."""
    with contextlib.ExitStack() as stack:

        def make(passes: int) -> Gate:
            gate = Gate(engine, tmp_path, passes)
            stack.callback(gate.close)
            return gate

        yield make


def ask_blocking(address: SocketAddress, engine: Engine) -> None:
    """Send a request on a blocking socket."""
    connection = BlockingConnection(address, KEY.with_tls(engine.tls), GENERATION, Role.PYTHON)
    connection.exchange(Kind.CALL, b"work", 10)


def ask_on(loop: str, address: SocketAddress, engine: Engine) -> None:
    """Send a request on an event loop."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(ask(address, engine))


async def ask(address: SocketAddress, engine: Engine) -> None:
    """Send a request on the loop."""
    connection = await dial(address, KEY.with_tls(engine.tls), GENERATION, Role.PYTHON)
    try:
        await connection.open(Kind.CALL, b"work", end=True).reply
    finally:
        await closed(connection)


async def closed(connection: CallerConnection) -> None:
    """Close *connection*, and its socket in a few turns of the loop."""
    connection.close()
    for _ in range(5):
        await asyncio.sleep(0)


CALLERS: dict[str, Callable[[SocketAddress, Engine], None]] = {
    "blocking": ask_blocking,
    "asyncio": partial(ask_on, "asyncio"),
    "uvloop": partial(ask_on, "uvloop"),
}


class Asking:
    """A caller in a thread of its own, which sends one request.

    Attributes:
        errors: How the request has ended.
    """

    def __init__(self, caller: str, address: SocketAddress, engine: Engine) -> None:
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._ask, args=(caller, address, engine))
        self._thread.start()

    def _ask(self, caller: str, address: SocketAddress, engine: Engine) -> None:
        try:
            CALLERS[caller](address, engine)
        except (Lost, AuthenticationError) as error:
            self.errors.append(error)

    def wait(self) -> BaseException:
        """Return the error of the request."""
        self._thread.join(10)
        (error,) = self.errors
        return error


@pytest.mark.parametrize("caller", CALLERS)
def test_a_caller_whose_hello_is_late_sends_no_request(
    engine: Engine, gate: Callable[[int], Gate], caller: str
) -> None:
    """The connection closes before the handshake, so the caller knows that nothing has started."""
    slow = gate(FLIGHTS[engine.transport] - 1)
    asking = Asking(caller, slow.address, engine)
    assert slow.held.wait(10)
    wait_until(lambda: len(engine.listener.connections) == 1)
    engine.leave()
    error = asking.wait()
    assert isinstance(error, AuthenticationError) or (isinstance(error, Lost) and error.started == "no")
    assert engine.service.started == 0


@pytest.mark.parametrize("caller", CALLERS)
def test_a_caller_whose_proof_is_late_learns_that_its_request_has_not_started(
    engine: Engine, gate: Callable[[int], Gate], caller: str
) -> None:
    """GOAWAY does not wait for the proof, which the request follows."""
    slow = gate(FLIGHTS[engine.transport])
    asking = Asking(caller, slow.address, engine)
    assert slow.held.wait(10)
    engine.leave()
    error = asking.wait()
    assert isinstance(error, Lost)
    assert error.started == "no"
    assert engine.service.started == 0
    assert not engine.listener.connections


@pytest.mark.parametrize("loop", LOOPS)
def test_a_caller_that_was_busy_reads_the_last_words_of_a_process(engine: Engine, loop: str) -> None:
    """Its request goes to a closed socket, and GOAWAY is still unread."""

    async def main() -> None:
        connection = await dial(engine.address, KEY.with_tls(engine.tls), GENERATION, Role.PYTHON)
        await connection.open(Kind.CALL, b"work", end=True).reply
        engine.leave()  # blocks this loop
        engine.close()
        with pytest.raises(Lost) as lost:
            await connection.open(Kind.CALL, b"work", end=True).reply
        assert lost.value.started == "no"
        await closed(connection)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    assert engine.service.started == 1


def test_a_blocking_caller_reads_the_last_words_of_a_process(engine: Engine) -> None:
    """The same on a blocking socket, whose request was sent before the replica read it."""
    connection = BlockingConnection(engine.address, KEY.with_tls(engine.tls), GENERATION, Role.PYTHON)
    connection.exchange(Kind.CALL, b"work", 10)
    engine.leave()
    engine.close()
    with pytest.raises(Lost) as lost:
        connection.exchange(Kind.CALL, b"work", 10)
    assert lost.value.started == "no"
    assert engine.service.started == 1


def test_a_request_that_is_cut_off_by_an_end_was_not_started_after_goaway() -> None:
    """The process has not read the whole request, and its last word was GOAWAY."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def end_early() -> None:
        with listening, listening.accept()[0] as sock:
            sock.settimeout(10)
            shake = Handshake(KEY, Role.LISTENER, identity(GENERATION, "r"), caller=False)
            while not shake.done:
                sock.sendall(shake.feed(sock.recv(HELLO_BYTES)))
            sock.recv(1)
            out, _ = shake.seals()
            sock.sendall(out.close(encode(Kind.GOAWAY, 0)))

    peer = threading.Thread(target=end_early)
    peer.start()
    address = SocketAddress("r", "", listening.getsockname())
    connection = BlockingConnection(address, KEY, GENERATION, Role.PYTHON)
    connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with pytest.raises(Lost) as lost:
        connection.exchange(Kind.CALL, bytes(MAX_PAYLOAD), 10)
    peer.join(10)
    assert lost.value.started == "no"


@pytest.mark.parametrize("engine", ["unix", "tcp"], indirect=True)  # version 2 has no TLS
def test_a_caller_of_the_previous_version_gets_goaway_after_its_proof(engine: Engine) -> None:
    """That version takes any frame before its first request for a fault."""
    with socket.socket(socket.AF_INET if engine.address.tcp else socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(engine.address.tcp or engine.address.unix)
        shake = Handshake(KEY, Role.PYTHON, identity(GENERATION, "r"), caller=True, versions=(2, 2))
        sock.sendall(shake.start())
        proof = shake.feed(sock.recv(4096))
        leaving = engine.thread.submit(engine.listener.leave)
        wait_until(lambda: all(each.is_going_away for each in engine.listener.connections))
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(4096)
        sock.settimeout(10)
        sock.sendall(proof)
        assert sock.recv(4096)
    leaving.result(10)
