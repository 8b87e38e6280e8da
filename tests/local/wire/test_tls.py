"""TLS around connections over TCP, at asyncio, uvloop and blocking ends, with real certificates."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from serve_bridge.config.tls import Tls
from serve_bridge.errors import AuthenticationError, ConfigError
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.blocking_end import BlockingConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.handshake import TlsRefused
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.tls import check_files
from tests.support.certificates import make_tls
from tests.support.waiting import wait_until

KEY, GENERATION = Key(b"k" * 32), "g"
LARGE = bytes(range(256)) * (10 << 12)
"""10 MiB: many records of TLS, and more than all windows and socket buffers hold."""


class Service:
    """Answers with the request's body, or its head if there is none."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def load(self) -> int:
        """Return anything."""
        return 0

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Start the answer."""
        self.tasks.add(asyncio.get_running_loop().create_task(self.answer(stream, frame)))

    async def answer(self, stream: ReplicaStream, frame: Frame) -> None:
        """Answer with what has come."""
        if frame.payload == b"large":
            stream.respond(b"", end=False)
            await stream.send_segments([LARGE], end=True)
            return
        stream.accept_body()
        body = [bytes(piece) async for piece in stream.chunks()] if stream.has_body else []
        stream.respond(b"".join(body)[:10] + str(sum(map(len, body))).encode() if body else frame.payload, end=True)


class Engine:
    """A listener on a loop of its own."""

    def __init__(self, directory: Path, tls: Tls | None) -> None:
        self.thread = LoopThread("engine")
        self.service = Service()
        self.listener = Listener(self.service, KEY.with_tls(tls), GENERATION, "r")

        async def listen() -> SocketAddress:
            return await self.listener.listen(directory, "127.0.0.1")

        address = self.thread.submit(listen).result(10)
        self.address = SocketAddress("r", "", address.tcp)

    def close(self) -> None:
        """Stop."""

        async def close() -> None:
            self.listener.close()

        self.thread.submit(close).result(10)
        self.thread.stop()
        self.thread.join(10)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The place of the unix socket."""
    path = tmp_path / "sockets"
    path.mkdir(0o700)
    return path


@pytest.fixture
def authority() -> trustme.CA:
    """The team's own."""
    return trustme.CA()


@pytest.fixture
def tls(tmp_path: Path, authority: trustme.CA) -> Tls:
    """The files of the engine."""
    return make_tls(tmp_path, "engine", authority)


@pytest.fixture
def engine(directory: Path, tls: Tls) -> Iterator[Engine]:
    """A listener with TLS."""
    engine = Engine(directory, tls)
    yield engine
    engine.close()


def ask_blocking(address: SocketAddress, tls: Tls | None, role: Role = Role.PYTHON) -> bytes:
    """Ask on a blocking socket."""
    connection = BlockingConnection(address, KEY.with_tls(tls), GENERATION, role)
    try:
        return connection.exchange(Kind.REQUEST, b"hello", 10).head
    finally:
        connection.close()


def ask_on_loop(
    new_loop: Callable[[], Any], address: SocketAddress, tls: Tls | None, role: Role = Role.PYTHON
) -> bytes:
    """Ask on an event loop."""

    async def ask() -> bytes:
        connection = await dial(address, KEY.with_tls(tls), GENERATION, role)
        try:
            return (await connection.open(Kind.REQUEST, b"hello", end=True).reply).payload
        finally:
            connection.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(ask())


Ask = Callable[..., bytes]
ENDS: list[Any] = [
    pytest.param(ask_blocking, id="blocking"),
    pytest.param(partial(ask_on_loop, asyncio.new_event_loop), id="asyncio"),
    pytest.param(partial(ask_on_loop, uvloop.new_event_loop), id="uvloop"),
]
each_end = pytest.mark.parametrize("ask", ENDS)


@each_end
def test_both_ends_have_a_certificate_of_the_authority(ask: Ask, engine: Engine, tls: Tls) -> None:
    """The request is answered."""
    assert ask(engine.address, tls) == b"hello"


def test_the_bytes_between_the_ends_are_encrypted(engine: Engine, tls: Tls) -> None:
    """A listener between them reads neither the head nor the magic of the hello."""
    seen = bytearray()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(1 << 20):
            seen.extend(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def relay() -> None:
        near, _ = between.accept()
        with near, socket.create_connection(engine.address.tcp or ("", 0)) as far:
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join(10)

    with socket.create_server(("127.0.0.1", 0)) as between:
        thread = threading.Thread(target=relay)
        thread.start()
        assert ask_blocking(SocketAddress("r", "", between.getsockname()), tls) == b"hello"
        thread.join(10)
    assert len(seen) > 1000
    assert b"hello" not in seen
    assert b"SBRIDGE" not in seen


def test_a_large_answer_arrives_whole_at_a_blocking_end(engine: Engine, tls: Tls) -> None:
    """10 MiB into one buffer."""
    connection = BlockingConnection(engine.address, KEY.with_tls(tls), GENERATION, Role.PYTHON)
    answer = connection.exchange(Kind.REQUEST, b"large", 30)
    assert bytes(answer.read(len(LARGE))) == LARGE
    assert connection.exchange(Kind.REQUEST, b"again", 10).head == b"again"
    connection.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_large_bodies_arrive_whole_in_both_directions(new_loop: Callable[[], Any], engine: Engine, tls: Tls) -> None:
    """10 MiB each way, while a short request passes."""

    async def both() -> tuple[bytes, bytes, bytes]:
        connection = await dial(engine.address, KEY.with_tls(tls), GENERATION, Role.PYTHON)
        up = connection.open(Kind.REQUEST, b"", end=False)
        up.start_upload([LARGE])
        down = connection.open(Kind.REQUEST, b"large", end=True)
        short = connection.open(Kind.REQUEST, b"short", end=True)
        await down.reply
        body = b"".join([bytes(piece) async for piece in down.chunks()])
        answers = (await up.reply).payload, body, (await short.reply).payload
        connection.close()
        return answers

    with asyncio.Runner(loop_factory=new_loop) as runner:
        sent, received, short = runner.run(both())
    assert sent == LARGE[:10] + str(len(LARGE)).encode()
    assert received == LARGE
    assert short == b"short"


def refused(ask: Ask, caplog: pytest.LogCaptureFixture, *arguments: Any) -> tuple[str, str]:
    """Return the error of the caller and the log line of the listener, one line each."""
    with caplog.at_level(logging.WARNING, logger="serve_bridge.wire"):
        with pytest.raises((AuthenticationError, Lost)) as caught:
            ask(*arguments)
        wait_until(lambda: [record for record in caplog.records if record.threadName == "engine"])
    line = next(record.getMessage() for record in caplog.records if record.threadName == "engine")
    assert "\n" not in line + str(caught.value)
    return str(caught.value), line


@each_end
def test_a_caller_with_a_certificate_of_another_authority_is_refused(
    ask: Ask, engine: Engine, tls: Tls, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both ends say so."""
    foreign = make_tls(tmp_path, "foreign", trustme.CA())._replace(ca=tls.ca)
    error, line = refused(ask, caplog, engine.address, foreign)
    assert f"the peer refuses the certificate tls_cert={foreign.cert}: another authority has signed it" in error
    assert f"valid one by the authority in tls_ca={tls.ca}" in line
    assert "with 127.0.0.1:" in line


@each_end
def test_a_listener_with_a_certificate_of_another_authority_is_refused(
    ask: Ask, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both ends say so."""
    own = make_tls(tmp_path, "own", trustme.CA())
    error, line = refused(ask, caplog, engine.address, own)
    assert f"by the authority in tls_ca={own.ca}" in error
    assert "the peer refuses the certificate tls_cert=" in line


@each_end
def test_an_expired_certificate_is_refused(
    ask: Ask, engine: Engine, authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller learns that its certificate is meant."""
    old = make_tls(tmp_path, "old", authority, days=(-3, -1))
    error, line = refused(ask, caplog, engine.address, old)
    assert f"the peer refuses the certificate tls_cert={old.cert}: it has expired; renew it" in error
    assert "certificate has expired" in line


@pytest.mark.parametrize(("lacks", "alert"), [("version", "PROTOCOL_VERSION"), ("certificate", "CERTIFICATE_REQUIRED")])
def test_a_listener_wants_tls_1_3_and_a_certificate(engine: Engine, tls: Tls, lacks: str, alert: str) -> None:
    """It cuts a caller off that has TLS 1.2 at most, or no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(tls.ca)
    if lacks == "version":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(tls.cert, tls.key)
    with (
        socket.create_connection(engine.address.tcp or ("", 0), timeout=30) as plain,
        pytest.raises(ssl.SSLError, match=alert),
        context.wrap_socket(plain) as encrypted,
    ):
        encrypted.recv(1)


@each_end
def test_a_caller_without_tls_is_refused(ask: Ask, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """It learns which variables to set."""
    error, line = refused(ask, caplog, engine.address, None)
    assert "the peer speaks TLS only; set SERVE_BRIDGE_TLS_CERT" in error
    assert "the peer speaks without TLS" in line


@each_end
def test_a_listener_without_tls_is_refused(
    ask: Ask, directory: Path, tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    """Bodies must not travel readable by mistake."""
    engine = Engine(directory, None)
    try:
        error, line = refused(ask, caplog, engine.address, tls)
    finally:
        engine.close()
    assert "the peer listens without TLS; start the instance with tls_cert" in error
    assert "the peer speaks TLS, but this instance was started without tls_cert" in line


@pytest.mark.parametrize(
    ("uris", "role", "served"),
    [
        ((), Role.MANAGE, True),
        (("https://example.com/",), Role.MANAGE, True),
        (("serve-bridge://tls/forward",), Role.FORWARD, True),
        (("serve-bridge://tls/forward",), Role.CALL, False),
        (("serve-bridge://tls/call",), Role.CALL, True),
        (("serve-bridge://tls/call",), Role.FORWARD, True),
        (("serve-bridge://tls/call",), Role.MANAGE, False),
        (("serve-bridge://tls/call",), Role.PYTHON, False),
        (("serve-bridge://tls/manage",), Role.MANAGE, True),
        (("serve-bridge://tls/manage",), Role.EDGE, False),
        (("serve-bridge://tls/engine",), Role.PYTHON, True),
        (("serve-bridge://other/manage",), Role.FORWARD, False),
        (("serve-bridge://other/manage", "serve-bridge://tls/forward"), Role.FORWARD, True),
        (("serve-bridge://tls/unknown",), Role.FORWARD, False),
    ],
)
def test_a_uri_in_the_certificate_limits_the_role(
    uris: tuple[str, ...],
    role: Role,
    served: bool,
    engine: Engine,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    """A stronger key does not help."""
    own = make_tls(tmp_path, "own", authority, *uris)
    if served:
        assert ask_blocking(engine.address, own, role) == b"hello"
        return
    for ask in (ask_blocking, partial(ask_on_loop, asyncio.new_event_loop)):
        with pytest.raises(TlsRefused, match="does not allow the role of its key"):
            ask(engine.address, own, role)


@each_end
def test_the_certificate_of_a_web_host_is_not_one_of_the_engine(
    ask: Ask, directory: Path, authority: trustme.CA, tls: Tls, tmp_path: Path
) -> None:
    """A web host cannot pretend to be the controller."""
    engine = Engine(directory, make_tls(tmp_path, "web", authority, "serve-bridge://tls/call"))
    try:
        with pytest.raises(TlsRefused, match=r"is for serve-bridge://tls/call, and the engine needs .*tls/engine"):
            ask(engine.address, tls)
    finally:
        engine.close()


def test_renewed_files_are_used_for_new_connections(engine: Engine, tls: Tls, tmp_path: Path) -> None:
    """An open connection stays. The authority is a new one too."""
    old = BlockingConnection(engine.address, KEY.with_tls(tls), GENERATION, Role.PYTHON)
    renewed = trustme.CA()
    make_tls(tmp_path, "engine", renewed)
    web = make_tls(tmp_path, "web", renewed)
    assert ask_blocking(engine.address, web) == b"hello"
    assert ask_blocking(engine.address, tls) == b"hello"
    assert old.exchange(Kind.REQUEST, b"old", 10).head == b"old"
    old.close()


def test_a_process_listens_even_with_an_expired_certificate(
    directory: Path, authority: trustme.CA, tmp_path: Path
) -> None:
    """Callers on its own host need no certificate, and those on other hosts wait for the renewal."""
    engine = Engine(directory, make_tls(tmp_path, "engine", authority, days=(-3, -1)))
    web = make_tls(tmp_path, "web", authority)
    try:
        with pytest.raises(TlsRefused, match="certificate has expired"):
            ask_blocking(engine.address, web)
        assert ask_blocking(SocketAddress("r", str(directory / "r.sock"), None), web) == b"hello"
        make_tls(tmp_path, "engine", authority)
        assert ask_blocking(engine.address, web) == b"hello"
    finally:
        engine.close()


def test_faulty_files_after_a_renewal_are_not_used(engine: Engine, tls: Tls, caplog: pytest.LogCaptureFixture) -> None:
    """The old ones stay in use, and the log names the fault."""
    assert ask_blocking(engine.address, tls) == b"hello"
    Path(tls.cert).write_text("nothing")
    with caplog.at_level(logging.WARNING, logger="serve_bridge.wire"):
        assert ask_blocking(engine.address, tls) == b"hello"
    assert f"tls_cert {tls.cert!r}: the file holds no certificate in PEM form" in caplog.text


def faulty(tls: Tls, authority: trustme.CA, directory: Path, fault: str) -> Tls:
    """Return *tls* with a *fault*."""
    other = make_tls(directory, "other", authority)
    if fault == "expired":
        return make_tls(directory, "old", authority, days=(-3, -1))
    if fault == "foreign":
        return make_tls(directory, "foreign", trustme.CA())._replace(ca=tls.ca)
    if fault == "key":
        return tls._replace(key=other.key)
    if fault == "open":
        os.chmod(tls.key, 0o644)
    if fault == "text":
        Path(tls.ca).write_text("nothing")
    return tls._replace(cert=str(directory / "none")) if fault == "missing" else tls


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("expired", r"tls_cert '.*old.crt': certificate has expired"),
        ("foreign", r"tls_cert '.*foreign.crt': unable to get local issuer certificate; it was checked against tls_ca"),
        ("key", r"tls_key '.*other.key' for tls_cert '.*': the key is not the certificate's"),
        ("open", r"tls_key '.*' holds a key and must be readable by its user alone; chmod 600"),
        ("text", r"tls_ca '.*': the file holds no certificate in PEM form"),
        ("missing", r"tls_cert '.*none': No such file or directory"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tls: Tls, authority: trustme.CA, tmp_path: Path, fault: str, message: str
) -> None:
    """Before a process listens."""
    with pytest.raises(ConfigError, match=message):
        check_files(faulty(tls, authority, tmp_path, fault))
