"""An instance whose proxy has WebSockets: one that echoes, one that reads nothing, and one that is denied."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket

import serve_bridge as serve
from tests.support.raw_websocket import PING, PONG, TEXT, RawWebSocket, frame
from tests.support.waiting import reached

MIB = 2**20
_numbers = itertools.count()


async def echo(websocket: Any) -> str | None:
    """Send back what comes; answer a request, which is no handshake, when a file is there."""
    if not isinstance(websocket, WebSocket):
        if "until" in websocket.query_params:
            await reached(Path(websocket.query_params["until"]).exists)
        return "no WebSocket"
    await websocket.accept()
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if "text" in message:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])
    return None


async def deaf(websocket: WebSocket) -> None:
    """Accept, and read nothing until a file is there."""
    await websocket.accept()
    await reached(Path(websocket.query_params["until"]).exists, 3600)


async def refusing(websocket: WebSocket) -> None:
    """Deny with as much as the query says, or with less."""
    pieces = int(websocket.query_params["pieces"])
    status = int(websocket.query_params.get("status", 402))

    async def body() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"x" * MIB
        if "broken" in websocket.query_params:
            raise ValueError("a secret")

    try:
        await websocket.send_denial_response(StreamingResponse(body(), status))
    finally:
        note_end(websocket)


def note_end(websocket: WebSocket) -> None:
    """Make the file which the query names."""
    if "ended" in websocket.query_params:
        Path(websocket.query_params["ended"]).touch()


@dataclass(frozen=True)
class Proxy:
    """The proxy, and a WebSocket that has been open all the time."""

    address: tuple[str, int]
    neighbour: RawWebSocket

    def client(self, **options: Any) -> RawWebSocket:
        """Connect."""
        return RawWebSocket(self.address, **options)

    def opened(self, *more: bytes) -> RawWebSocket:
        """Open a WebSocket that echoes."""
        return self.client().open("/echo", *more)

    def check_neighbour(self) -> None:
        """Assert that the WebSocket that has been open all the time still echoes."""
        self.neighbour.send(frame(TEXT, b"still here"))
        while (got := self.neighbour.frame())[0] == PING:
            self.neighbour.send(frame(PONG, got[1]))
        assert got == (TEXT, b"still here")


@contextlib.contextmanager
def running(**http_options: Any) -> Iterator[tuple[serve.Client, Proxy]]:
    """Run an instance, whose proxy is looked at."""
    name = f"websocket-edge-{next(_numbers)}"
    client = serve.start(runtime="local", name=name, http_options={"port": 0, **http_options})
    try:
        for code in (echo, deaf, refusing):
            client.create_backend(code.__name__, code, config={"graceful_shutdown_timeout_s": 0.5})
            client.create_endpoint(code.__name__, backend=code.__name__, route=f"/{code.__name__}")
        address = ("127.0.0.1", int(client.http_urls[0].rpartition(":")[2]))
        with RawWebSocket(address) as neighbour:
            yield client, Proxy(address, neighbour.open("/echo"))
    finally:
        client.shutdown()
