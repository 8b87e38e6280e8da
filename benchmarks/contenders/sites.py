"""What every web contender answers, by the path asked for: plain Starlette, so that all run the same code.

Rule 1: a handler but `work` does no work of its own: what is measured is the way to it and back.
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
    """Give the whole body back."""
    return Response(await request.body())


async def sink(request: Request) -> Response:
    """Read the body as it comes, and say how long it was."""
    received = 0
    async for piece in request.stream():
        received += len(piece)
    return Response(str(received))


async def flow(request: Request) -> Response:
    """Send as many bytes as the query says, a piece at a time."""
    length = int(request.query_params["bytes"])

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(length // len(PIECE)):
            yield PIECE

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def events(request: Request) -> Response:
    """Send events until the client leaves, each in a turn of the loop of its own, as a model's tokens come.

    The query may say how many seconds are between two events.
    """
    pause_s = float(request.query_params.get("pause_s", 0))

    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield EVENT
            await asyncio.sleep(pause_s)

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def work(request: Request) -> Response:
    """Work for some milliseconds, on the loop, as a small model does."""
    from benchmarks.contenders.work import work  # NumPy is nobody's memory before this row

    return Response(work())


async def websocket(connection: WebSocket) -> None:
    """Give every message back."""
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
    """Return all of it as one application."""
    routes = [Route(f"/{name}", handler, methods=["GET", "POST"]) for name, handler in SITES.items()]
    return Starlette(
        routes=[Route("/noop", noop, methods=["GET", "POST"]), *routes, WebSocketRoute("/websocket", websocket)]
    )
