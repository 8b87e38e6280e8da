"""The handlers of every web contender, by path. They are plain Starlette, so that all contenders run the same code.

Rule 1: no handler except `work` does work of its own. The benchmark measures the path to the handler and back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks import BODY

EVENT: Final = b"data: tick\n\n"
PIECE: Final = bytes(64 << 10)


async def noop(request: Request) -> Response:
    """Answer at once."""
    return Response(BODY)


async def echo(request: Request) -> Response:
    """Return the whole body."""
    return Response(await request.body())


async def sink(request: Request) -> Response:
    """Read the body as it arrives, and return its length."""
    received = 0
    async for piece in request.stream():
        received += len(piece)
    return Response(str(received))


async def flow(request: Request) -> Response:
    """Send the number of bytes in the query, a piece at a time."""
    length = int(request.query_params["bytes"])

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(length // len(PIECE)):
            yield PIECE

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def events(request: Request) -> Response:
    """Send events until the client disconnects, each in its own turn of the event loop, like the tokens of a model.

    The query parameter `pause_s` sets the seconds between two events.
    """
    pause_s = float(request.query_params.get("pause_s", 0))

    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield EVENT
            await asyncio.sleep(pause_s)

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def work(request: Request) -> Response:
    """Work for some milliseconds on the event loop, like a small model."""
    from benchmarks.contenders.work import work  # late, so that NumPy does not count in the memory of earlier rows

    return Response(work())


async def websocket(connection: WebSocket) -> None:
    """Return every message."""
    await connection.accept()
    try:
        while True:
            await connection.send_text(await connection.receive_text())
    except WebSocketDisconnect:
        return


SITES: Final[Mapping[str, Callable[[Request], Awaitable[Response]]]] = {
    "echo": echo,
    "sink": sink,
    "flow": flow,
    "events": events,
    "work": work,
}


def application() -> Starlette:
    """Return all handlers as one application."""
    routes = [Route(f"/{name}", handler, methods=["GET", "POST"]) for name, handler in SITES.items()]
    return Starlette(
        routes=[Route("/noop", noop, methods=["GET", "POST"]), *routes, WebSocketRoute("/websocket", websocket)]
    )
