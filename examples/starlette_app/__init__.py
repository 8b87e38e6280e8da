"""A Starlette app: a page for drawing digits, and all routes of the instance below `/ml`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from serve_bridge.adapters.starlette.extension import ServeBridge

HERE: Final = Path(__file__).parent
BACKENDS: Final = ["examples.digits", "examples.starlette_app.backends"]


async def page(request: Request) -> FileResponse:
    """Show the page."""
    return FileResponse(HERE / "draw.html")


def create_app(runtime: str | None) -> Starlette:
    """Return the app. With the *runtime* "local", its backends run in this process."""
    bridge = ServeBridge(runtime=runtime, backends=BACKENDS)
    return Starlette(
        routes=[
            Route("/", page),
            WebSocketRoute("/drawing", bridge.forward("drawing")),
            Mount("/ml", app=bridge),
            Mount("/static", StaticFiles(directory=HERE.parent / "static")),
            Mount("/own", StaticFiles(directory=HERE / "static")),
        ],
        lifespan=bridge.lifespan,
    )


app = create_app(os.environ.get("RUNTIME"))
