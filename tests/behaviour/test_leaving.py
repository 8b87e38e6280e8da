"""A backend is told that its caller has left, whichever way that called."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx

import serve_bridge as serve
from tests.support.serving import Serving


class Watching:
    """Watches its caller in a task of its own, which nobody cancels."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.left = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def __call__(self, request: Any) -> None:
        """Wait for ever."""
        await request.body()
        self.tasks.append(asyncio.create_task(self.watch(request)))
        self.begun.set()
        await asyncio.Event().wait()

    async def watch(self, request: Any) -> None:
        """Note that the caller has left, in both ways."""
        while not await request.is_disconnected():  # noqa: ASYNC110 - the loop that users write
            await asyncio.sleep(0.01)
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.left.set()

    async def has_begun(self) -> bool:
        """Return once a request has begun."""
        return await self.begun.wait()

    async def has_left(self) -> bool:
        """Return once the caller has left."""
        return await self.left.wait()


def test_a_handle_call_that_is_given_up_is_a_caller_that_left(serving: Serving) -> None:
    """The request of a Python call says so."""
    handle = serving(Watching).handle

    async def main() -> Any:
        call = asyncio.create_task(handle.acall("data"))
        await handle.options(method_name="has_begun").acall()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        return await handle.options(method_name="has_left").acall()

    assert asyncio.run(main()) is True


def test_a_client_that_disconnects_is_a_caller_that_left(serving: Serving, client: serve.Client) -> None:
    """Through the proxy it is Starlette's own request that says so."""
    served = serving(Watching)

    async def main() -> Any:
        async with httpx.AsyncClient(base_url=client.http_urls[0], trust_env=False, timeout=30) as http:
            asked = asyncio.create_task(http.get(served.route))
            await served.handle.options(method_name="has_begun").acall()
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked
        return await served.handle.options(method_name="has_left").acall()

    assert asyncio.run(main()) is True
