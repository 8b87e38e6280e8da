"""The backends behind the ASGI adapters' tests, and what they tell the tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.websockets import WebSocket

import serve_bridge as serve

begun = threading.Event()
"""A backend that waits has begun to."""
cancelled = threading.Event()
"""What a backend did was cancelled."""


@serve.backend(route="/echo/{number:int}", methods=["GET", "POST"])
async def echo(request: Any) -> dict[str, Any]:
    """Return what of the request arrived."""
    return {
        "path": request.url.path,
        "params": {name: [type(value).__name__, value] for name, value in request.path_params.items()},
        "query": request.query_params.multi_items(),
        "headers": request.headers.items(),
        "state": dict(request.state._state),
        "body": (await request.body()).decode(),
    }


@serve.backend(route="/answer")
def answer(request: Any) -> Response:
    """Return an answer with headers and cookies of its own."""
    response = Response(b"teapot", 418, headers={"X-Own": "1"})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@serve.backend
def failing(request: Any) -> None:
    """Raise."""
    raise RuntimeError("secret")


@serve.backend
def forbidden(request: Any) -> None:
    """Raise what has a status of its own."""
    raise HTTPException(403, "not you")


@serve.backend
async def waiting(request: Any) -> str:
    """Read the body, and wait until that is cancelled."""
    try:
        begun.set()
        await request.body()
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        cancelled.set()
        raise
    return "never"


@serve.backend
async def endless(request: Any) -> AsyncIterator[str]:
    """Stream until that is cancelled."""
    try:
        begun.set()
        while True:
            yield "x" * 1000
    finally:
        cancelled.set()


@serve.backend
async def count(request: Any) -> AsyncIterator[str]:
    """Stream and end."""
    for number in range(3):
        yield f"{number}\n"


@serve.backend
async def form(request: Any) -> dict[str, Any]:
    """Return the fields and files of a form."""
    async with request.form() as fields:
        return {
            name: value if isinstance(value, str) else [value.filename, (await value.read()).decode()]
            for name, value in fields.multi_items()
        }


@serve.backend(route="/chat/{room:int}")
async def chat(websocket: WebSocket) -> None:
    """Say what arrived with the handshake, then send back what comes."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None)
    seen = {
        "params": {name: [type(value).__name__, value] for name, value in websocket.path_params.items()},
        "headers": websocket.headers.keys(),
        "state": dict(websocket.state._state),
    }
    await websocket.send_json(seen)
    async for text in websocket.iter_text():
        if text == "end":
            await websocket.close(4001, "as you wish")
            return
        await websocket.send_text(text)


@serve.backend
class Counter:
    """Has a method besides `__call__`."""

    def __call__(self, request: Any) -> str:
        """Be called."""
        return "call"

    def add(self, data: Any, by: str = "0") -> Any:
        """Add."""
        return {"sum": data + int(by)}
