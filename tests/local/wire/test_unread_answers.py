"""Peers that hold the instance's key, ask and never read: what is kept for them has a limit, and others are served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import uvloop

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.instance.instance_file import find
from serve_bridge.wire import payload, replica_end
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frame_writer import MOST_UNREAD_BYTES
from serve_bridge.wire.frames import END, Frame, FrameReader, Kind, encode
from serve_bridge.wire.handshake import Handshake, identity
from serve_bridge.wire.heads import CallHead
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.segments import join
from tests.support.waiting import wait_until

ANSWER_BYTES = 60_000
REQUESTS = 10_000
MOST_BYTES = 128 << 20
PLACES = 50


class Long:
    """Answers at length."""

    async def __call__(self, request: Any) -> bytes:
        """Return as much as one frame may have."""
        return b"x" * ANSWER_BYTES

    async def longer(self, data: Any = None) -> bytes:
        """Return what takes many frames."""
        return b"x" * 50 * ANSWER_BYTES


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance with one replica."""
    client = serve.start(runtime="local", name="unread", http_options={"location": None})
    client.create_backend("b", Long, config={"max_concurrent_queries": PLACES})
    client.create_endpoint("e", backend="b")
    yield client
    client.shutdown()


@pytest.fixture
def peer(client: serve.Client) -> Iterator[socket.socket]:
    """A connection to the replica whose handshake is done."""
    table = link_of(client).routing_table()
    assert table is not None
    (replica,) = table.backends["b"].replicas
    found = find(client.address, "unread")
    handshake = Handshake(found.key, Role.PYTHON, identity(found.generation, replica.name), caller=True)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(replica.unix)
        connection.sendall(handshake.start())
        while not handshake.done:
            connection.sendall(handshake.feed(connection.recv(4096)))
        yield connection


def call(number: int, method: str = "") -> bytes:
    """Return the frame of a call that may take an hour."""
    arguments = join(payload.pack((None, {})))
    head = CallHead("e", "b", 0, 3600.0, "", method, "GET", None, False, len(arguments), arguments)
    return encode(Kind.CALL, number, msgspec.msgpack.encode(head), END)


def send_without_reading(peer: socket.socket, data: bytes) -> int:
    """Send *data* until the replica takes no more of it; return how much it took."""
    peer.settimeout(1.0)
    sent = 0
    with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
        while sent < len(data):
            sent += peer.send(data[sent : sent + 65536])
    return sent


def memory() -> int:
    """Return how much memory this process has, the replica's and the peer's."""
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("frames", ["requests", "pings"])
def test_what_a_peer_leaves_unread_has_a_limit(client: serve.Client, peer: socket.socket, frames: str) -> None:
    """The replica stops reading what such a peer sends, and answers others."""
    if frames == "requests":
        data = b"".join(call(number + 1) for number in range(REQUESTS))
    else:
        data = encode(Kind.PING, 0) * (1 << 20)
    before = memory()
    assert send_without_reading(peer, data) < len(data)
    assert memory() - before < MOST_BYTES
    assert client.get_handle("e").call() == b"x" * ANSWER_BYTES


def test_a_peer_that_reads_late_gets_every_answer(client: serve.Client, peer: socket.socket) -> None:
    """Reading goes on once it has read what waited."""
    data = b"".join(call(number + 1) for number in range(500)) + encode(Kind.PING, 0)
    sender = threading.Thread(target=peer.sendall, args=(data,))
    sender.start()
    reader, last = FrameReader(), set()
    while True:
        frames = list(reader.feed(peer.recv(1 << 20)))
        last |= {frame.stream for frame in frames if frame.flags & END}
        if any(frame.kind == Kind.PONG for frame in frames):
            break
    while len(last) < 500:
        last |= {frame.stream for frame in reader.feed(peer.recv(1 << 20)) if frame.flags & END}
    sender.join()


def test_a_peer_that_never_reads_is_cut_off(
    client: serve.Client, peer: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its long answers give their places in the replica back, though each might wait for an hour."""
    monkeypatch.setattr(replica_end, "STUCK_S", 0.5)
    peer.sendall(b"".join(call(number + 1, "longer") for number in range(PLACES)))
    wait_until(lambda: "read nothing" in caplog.text)
    assert client.get_handle("e").options(timeout_s=10).call() == b"x" * ANSWER_BYTES


class Deaf:
    """A service that reads no more once it has a request."""

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Read no more."""
        stream.connection.stop_reading()

    def load(self) -> int:
        """Have no load."""
        return 0


def test_what_a_replica_leaves_unread_has_a_limit(tmp_path: Path) -> None:
    """The caller's requests end, instead of being kept."""

    async def main() -> None:
        key = Key()
        listener = Listener(Deaf(), key, "g", "r")
        address = await listener.listen(tmp_path / "s", None)
        connection = await dial(address, key, "g", Role.PYTHON)
        replies = []
        while connection.usable and len(replies) * ANSWER_BYTES < 2 * MOST_UNREAD_BYTES:
            replies.append(connection.open(Kind.CALL, bytes(ANSWER_BYTES), end=True).reply)
            await asyncio.sleep(0)  # the replica's turn
        assert len(replies) * ANSWER_BYTES < 1.1 * MOST_UNREAD_BYTES
        with pytest.raises(Lost, match="does not read"):
            await replies[0]
        listener.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
