"""Applications of FastAPI, Starlette and Flask that tests mount."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from flask import Flask, Response, request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

api = FastAPI()


@api.get("/items/{item_id}")
async def item(item_id: int, q: str = "") -> dict[str, Any]:
    """Return an item."""
    return {"item_id": item_id, "q": q}


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"started": [], "pid": os.getpid()}


async def _state(request: Request) -> JSONResponse:
    keys = sorted(request.scope["state"])
    request.state.mine = True
    return JSONResponse({"pid": request.state.pid == os.getpid(), "keys": keys})


async def _upload(request: Request) -> StreamingResponse:
    async def sizes() -> AsyncIterator[str]:
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
        yield str(total)

    return StreamingResponse(sizes())


async def _echo(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=next(iter(websocket.scope["subprotocols"]), None))
    async for text in websocket.iter_text():
        await websocket.send_text(f"{websocket.path_params['room']}: {text} {websocket.state.pid == os.getpid()}")


site = Starlette(
    routes=[
        Route("/", lambda request: JSONResponse(str(request.url_for("state")))),
        Route("/state", _state, name="state"),
        Route("/upload", _upload, methods=["POST"]),
        WebSocketRoute("/rooms/{room:int}", _echo),
    ],
    lifespan=_lifespan,
)


@asynccontextmanager
async def _broken_lifespan(app: Starlette) -> AsyncIterator[None]:
    raise LookupError("no model file")
    yield


unstartable = Starlette(lifespan=_broken_lifespan)

flask_site = Flask(__name__)


@flask_site.route("/", methods=["GET", "PUT"])
def _home() -> Any:
    return {"root": request.script_root, "path": request.path, "url": request.url, "method": request.method}


@flask_site.post("/upload")
def _uploaded() -> str:
    return str(sum(len(chunk) for chunk in iter(lambda: request.stream.read(100_000), b"")))


@flask_site.get("/context")
def _context() -> Any:
    return request.environ["serve_bridge.context"]


@flask_site.get("/numbers")
def _numbers() -> Response:
    return Response((f"{number}\n" * 50_000 for number in range(3)), mimetype="text/plain")
