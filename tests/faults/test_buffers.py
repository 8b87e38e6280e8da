"""P24: more bodies than there is room for; the proxy holds no more than it may."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

import serve_bridge as serve
from serve_bridge.http_server.buffers import NO_BODIES
from serve_bridge.http_server.request_sequence import BODY_HELD_BYTES
from tests.faults.conftest import actors, scaled
from tests.faults.report.figures import note
from tests.faults.test_memory import Peaks
from tests.support.raw_websocket import BINARY, TEXT, RawWebSocket, frame
from tests.support.waiting import reached, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults]

MIB: Final = 1024 * 1024
LIMIT: Final = 64 * MIB
UPLOADS: Final = scaled(1000)
BODY: Final = memoryview(bytes(1_000_000))
TAKEN: Final = -(-int(LIMIT * NO_BODIES) // BODY_HELD_BYTES)
"""Uploads that find room."""
TIMEOUT_S: Final = 300.0
PATIENT: Final = ("header_timeout_s", "request_timeout_s")


class Talk:
    """Sends as many bytes as each text asks for, several times. A file is there once a conversation has ended."""

    def __init__(self, ended: str) -> None:
        self._ended = Path(ended)

    async def __call__(self, websocket: Any) -> None:
        """Talk until the client leaves, or is given up."""
        try:
            await websocket.accept()
            async for text in websocket.iter_text():
                for _ in range(4):
                    await websocket.send_bytes(bytes(int(text)))
        finally:
            self._ended.touch()


class Deaf:
    """Reads nothing of a body until a file is there."""

    def __init__(self, gate: str) -> None:
        self._gate = Path(gate)

    async def __call__(self, request: Any) -> str:
        """Wait, then say how long the body is."""
        await reached(self._gate.exists, TIMEOUT_S)
        return str(len(await request.body()))


@pytest.fixture
def instance(ray_cluster: Any) -> Iterator[serve.Client]:
    """An instance on Ray whose proxy may hold little; silent clients may stay."""
    options = {
        "port": 0,
        "max_buffered_bytes": LIMIT,
        **dict.fromkeys(PATIENT, TIMEOUT_S),
        "max_connections": UPLOADS + 10,
    }
    client = serve.start(name="buffers", http_options=options)
    yield client
    client.shutdown()
    wait_until(lambda: not actors())


async def connected(address: tuple[str, int]) -> socket.socket:
    """Return a connection whose own kernel holds little of what it sends."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, address)
    return client


async def upload(client: socket.socket) -> int:
    """Send a body and return the status of the answer, whichever comes first."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"POST /deaf HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    sending = loop.create_task(loop.sock_sendall(client, BODY))
    try:
        return int((await loop.sock_recv(client, 4096)).split(b" ", 2)[1])
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def test_more_bodies_than_there_is_room_for(instance: serve.Client, tmp_path: Path) -> None:
    """Those that find room are served in the end, the rest is refused; others are served all the while."""
    gate = tmp_path / "gate"
    config = {"max_concurrent_queries": 4, "max_queued_queries": UPLOADS}
    instance.create_backend("deaf", Deaf, str(gate), config=config)
    instance.create_endpoint("deaf", backend="deaf", route="/deaf", methods=["POST"])
    url = urlsplit(instance.http_urls[0])
    address = (url.hostname or "", url.port or 80)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, UPLOADS + 1000), hard))

    async def run() -> Counter[int]:
        clients = [await connected(address) for _ in range(UPLOADS)]
        proxy = Peaks(actors("Proxy"))
        uploads = [asyncio.create_task(upload(client)) for client in clients]
        await reached(lambda: sum(upload.done() for upload in uploads) >= UPLOADS - TAKEN, TIMEOUT_S)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /-/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        grown = proxy.grown()
        assert max(grown.values()) <= LIMIT * 1.1, grown
        note(
            UPLOADS,
            f"{UPLOADS} uploads of 1 MB, {TAKEN} served, the others refused; "
            f"the proxy grew by {max(grown.values()) / MIB:.0f} MiB of {LIMIT // MIB}",
        )
        gate.touch()
        statuses = Counter(await asyncio.gather(*uploads))
        for client in clients:
            client.close()
        return statuses

    try:
        assert asyncio.run(run()) == {200: TAKEN, 503: UPLOADS - TAKEN}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


IDLE: Final = scaled(200)
IDLE_BYTES: Final = 24 * 1024
"""The most resident memory of an idle connection."""


def test_an_idle_connection_takes_little_memory(instance: serve.Client) -> None:
    """P25: each has sent a request, and waits for the next one."""
    url = urlsplit(instance.http_urls[0])
    with ExitStack() as stack:

        def connect(count: int) -> None:
            for _ in range(count):
                client = stack.enter_context(socket.create_connection((url.hostname or "", url.port or 80)))
                client.sendall(b"GET /-/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")

        connect(20)  # the first ones load modules
        proxy = Peaks(actors("Proxy"))
        connect(IDLE)
        each = max(proxy.grown().values()) / IDLE
    note(IDLE, f"{IDLE} idle connections, {each / 1024:.1f} KiB each")
    assert each <= IDLE_BYTES


WEBSOCKETS: Final = 24
FRAGMENT: Final = bytes(4000)
HALF_SENT: Final[dict[str, bytes]] = {
    "one frame": frame(BINARY, length=16 * MIB) + bytes(7 * MIB),
    "fragments": frame(BINARY, b"x", fin=False) + frame(0, FRAGMENT, fin=False) * 1800,
    "wide text": frame(TEXT, b"x", fin=False) + frame(0, b"a" * 4000 + "\U0001f600".encode(), fin=False) * 1800,
    "unread answers": frame(TEXT, b"%d" % (4 * MIB)),
}


@pytest.mark.parametrize("sent", HALF_SENT.values(), ids=HALF_SENT)
def test_more_of_websockets_than_there_is_room_for(instance: serve.Client, sent: bytes, tmp_path: Path) -> None:
    """Messages that do not end, and answers that are not read, take about what is counted, and are given up."""
    given_up = tmp_path / "given_up"
    instance.create_backend("talk", Talk, str(given_up), config={"max_concurrent_queries": WEBSOCKETS})
    instance.create_endpoint("talk", backend="talk", route="/talk")
    url = urlsplit(instance.http_urls[0])
    address = (url.hostname or "", url.port or 80)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawWebSocket(address, receive_buffer=4096)) for _ in range(WEBSOCKETS)]
        for client in clients:
            client.open("/talk")
        proxy = Peaks(actors("Proxy"))
        with ThreadPoolExecutor(WEBSOCKETS) as sending:
            for client in clients:
                sending.submit(client.send, sent)
            # Those that are given up free what they held, so that others find room in the end.
            wait_until(lambda: given_up.exists() and is_live(address), TIMEOUT_S)
        grown = proxy.grown()
        # Pieces that were joined and freed leave holes in the heap, so resident memory is above the account.
        assert LIMIT * 0.5 <= max(grown.values()) <= LIMIT * 1.5, grown


def is_live(address: tuple[str, int]) -> bool:
    """Return whether the proxy answers on its own path."""
    with RawWebSocket(address) as client:
        client.send(b"GET /-/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.rest().startswith(b"HTTP/1.1 200 ")
