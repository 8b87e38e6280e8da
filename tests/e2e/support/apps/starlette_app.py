"""A Starlette app with one forwarded route."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_bridge.adapters.starlette.extension import ServeBridge
from tests.e2e.support.apps.facts import WORKER, facts


class NameWorker:
    """Says who answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header to the answer."""

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (WORKER.encode(), str(os.getpid()).encode())]
            await send(message)

        await self._app(scope, receive, named)


async def own_facts(request: Request) -> JSONResponse:
    """Answer without the instance."""
    return JSONResponse(facts())


bridge = ServeBridge()
app = Starlette(
    routes=[
        Route("/echo/{number:int}", bridge.forward("echo"), methods=["POST"]),
        Route("/transfer", bridge.forward("transfer", timeout_header=True), methods=["GET", "POST"]),
        Route("/facts", own_facts),
    ],
    middleware=[Middleware(NameWorker)],
)
