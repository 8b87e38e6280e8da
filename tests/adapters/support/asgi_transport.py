"""An httpx transport that calls an ASGI application on a loop of its own."""

from __future__ import annotations

from typing import Any

import httpx

from serve_bridge.process.loop_thread import LoopThread


class ASGITransport(httpx.BaseTransport):
    """Lets a blocking client call an ASGI application."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)
        self._thread = LoopThread("tests-asgi")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the application's whole answer."""
        request.read()

        async def ask() -> httpx.Response:
            asked = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
            answer = await self._inner.handle_async_request(asked)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return self._thread.submit(ask).result(30)

    def close(self) -> None:
        """End the loop."""
        self._thread.stop()
        self._thread.join(5)


def asgi_client(app: Any) -> httpx.Client:
    """Return a client of *app*."""
    return httpx.Client(transport=ASGITransport(app), base_url="http://testserver")
