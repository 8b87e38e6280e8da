"""Mutated frames to a replica, from peers with the instance's key: it answers in frames, or closes, and serves on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.websockets import WebSocket

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.instance.instance_file import find
from serve_bridge.wire.frames import FrameReader, Kind
from serve_bridge.wire.handshake import Handshake, identity
from serve_bridge.wire.keys import Role
from tests.faults.report.figures import note
from tests.fuzz.support.inputs import SEED, numbers, repeat
from tests.fuzz.support.mutated_frames import ASKED, mutated_frames
from tests.support.edge_server import read_all

CONNECTIONS = 500
FROM_REPLICAS = {Kind.DATA, Kind.RESPONSE, Kind.REJECT, Kind.ABORT, Kind.CREDIT, Kind.GOAWAY, Kind.PONG}


class Anything:
    """Takes all that a request has, and returns how much that is."""

    async def __call__(self, request: Any) -> int:
        """Serve one."""
        if isinstance(request, WebSocket):
            await request.accept()
            async for _ in request.iter_text():
                pass
            return 0
        return len(await request.body()) if isinstance(request, Request) else 0


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance with the backend `b` behind the endpoint `e`."""
    client = serve.start(runtime="local", name="replica-fuzz", http_options={"location": None})
    client.create_backend("b", Anything)
    client.create_endpoint("e", backend="b")
    yield client
    client.shutdown()


def admitted(client: serve.Client, role: Role) -> socket.socket:
    """Return a connection to the replica whose handshake is done."""
    table = link_of(client).routing_table()
    assert table is not None
    (replica,) = table.backends["b"].replicas
    found = find(client.address, "replica-fuzz")
    handshake = Handshake(found.key, role, identity(found.generation, replica.name), caller=True)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(replica.unix)
    connection.sendall(handshake.start())
    while not handshake.done:
        connection.sendall(handshake.feed(connection.recv(4096)))
    return connection


def exchange(client: serve.Client, role: Role, data: bytes) -> bytes:
    """Send frames, end one's own side, and read until the replica closes."""
    with admitted(client, role) as connection:
        with contextlib.suppress(OSError):  # it may refuse before it has read everything
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


@pytest.mark.parametrize("role", [Role.EDGE, Role.PYTHON])
def test_no_frames_break_a_replica(client: serve.Client, caplog: pytest.LogCaptureFixture, role: Role) -> None:
    """What comes back is right, nothing fails in its loop, and no request is left."""
    caplog.set_level("ERROR")
    sent = numbers(CONNECTIONS)
    for number in sent:
        received = exchange(client, role, mutated_frames(SEED, number, ASKED))
        assert {frame.kind for frame in FrameReader().feed(received)} <= FROM_REPLICAS, repeat(number)
        assert [record.getMessage() for record in caplog.records] == [], repeat(number)
    assert client.get_handle("e").call() == 0
    note(len(sent), f"{len(sent)} connections with mutated frames in each of two roles")
