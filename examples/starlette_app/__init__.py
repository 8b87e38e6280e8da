"""A Starlette app: a page that reads while you draw, and all routes of the instance below `/ml`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_bridge import ServeBridgeError
from serve_bridge.adapters.starlette import ServeBridge

HERE: Final = Path(__file__).parent

bridge = ServeBridge()


async def page(request: Request) -> FileResponse:
    """Show the page."""
    return FileResponse(HERE / "draw.html")


async def drawing(socket: WebSocket) -> None:
    """Read each state of a drawing that arrives, and send back what it looks like."""
    await socket.accept()
    handle = bridge.get_handle("digits")
    try:
        while True:
            await socket.send_json(await handle.acall(await socket.receive_json()))
    except WebSocketDisconnect:
        pass
    except ServeBridgeError as error:
        await socket.close(1013, type(error).__name__)


app = Starlette(
    routes=[
        Route("/", page),
        WebSocketRoute("/drawing", drawing),
        Mount("/ml", app=bridge),
        Mount("/static", StaticFiles(directory=HERE.parent / "static")),
        Mount("/own", StaticFiles(directory=HERE / "static")),
    ]
)
