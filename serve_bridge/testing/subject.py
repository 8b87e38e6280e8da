"""The backend behind the contract. The path of a request names what the backend does.

Rule 1: one replica holds all of the state, so a test can ask for the state on every runtime.
Rule 2: a request waits until a test calls `open`, or until it is cancelled; it never waits for a time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket

from serve_bridge.testing.behaviours import ANSWERS, converse, digest

PART: Final = b"0123456789abcdef" * 4096
"""One part of the answer of `_counted`."""


class Subject:
    """Answers as the path says: `/echo`, `/answer` and so on.

    A *gate* is a name for one request. The test invents it, and asks for the progress of the request by it.
    """

    def __init__(self) -> None:
        self._open: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._begun: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._ended: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._produced: defaultdict[str, int] = defaultdict(int)

    async def __call__(self, request: Any) -> Any:
        """Answer by the behaviour that the path names."""
        if isinstance(request, WebSocket):
            return await converse(request)
        name = next(part for part in request.url.path.split("/") if part in ANSWERS or part in GATED)
        return await (GATED[name](self, request) if name in GATED else ANSWERS[name](request))

    def add(self, data: Any, by: str = "0") -> Any:
        """Return a sum; this is a method for routes with `method_name`."""
        return {"sum": data + int(by)}

    async def open(self, gate: str) -> None:
        """Let the request of *gate* continue."""
        self._open[gate].set()

    async def begun(self, gate: str) -> bool:
        """Return once the request of *gate* has begun."""
        return await self._begun[gate].wait()

    async def ended(self, gate: str) -> bool:
        """Return once the request of *gate* has ended, or was cancelled."""
        return await self._ended[gate].wait()

    async def produced(self, gate: str) -> int:
        """Return how many bytes the request of *gate* has produced."""
        return self._produced[gate]

    # behaviours

    async def _gated(self, request: Any) -> Any:
        gate = request.query_params["gate"]

        async def parts() -> AsyncIterator[str]:
            yield "first\n"
            await self._open[gate].wait()
            yield "last\n"

        return StreamingResponse(parts(), media_type="text/plain")

    async def _silent(self, request: Any) -> Any:
        gate = request.query_params["gate"]

        async def parts() -> AsyncIterator[str]:
            await self._open[gate].wait()
            yield "all\n"

        return StreamingResponse(parts(), media_type="text/plain")

    async def _endless(self, request: Any) -> Any:
        gate = request.query_params["gate"]

        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
            finally:
                self._ended[gate].set()

        return StreamingResponse(parts(), media_type="application/octet-stream")

    async def _events(self, request: Any) -> Any:
        gate = request.query_params["gate"]

        async def events() -> AsyncIterator[str]:
            try:
                while not await request.is_disconnected():
                    yield "data: tick\n\n"
                    await asyncio.sleep(0.01)
            finally:
                self._ended[gate].set()

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _counted(self, request: Any) -> Any:
        gate = request.query_params["gate"]

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(int(request.query_params["parts"])):
                self._produced[gate] += len(PART)
                yield PART

        return StreamingResponse(parts(), media_type="application/octet-stream")

    async def _paused(self, request: Any) -> Any:
        gate = request.query_params["gate"]
        body = request.stream()
        size = len(await anext(body))
        self._begun[gate].set()
        await self._open[gate].wait()
        async for chunk in body:
            size += len(chunk)
        return {"size": size}

    async def _hanging(self, request: Any) -> Any:
        gate = request.query_params["gate"]
        self._begun[gate].set()
        try:
            await self._open[gate].wait()
        finally:
            self._ended[gate].set()
        return "opened"

    async def _upload(self, request: Any) -> Any:
        self._begun[request.query_params["gate"]].set()
        try:
            return await digest(request)
        finally:
            self._ended[request.query_params["gate"]].set()


GATED: Final[Mapping[str, Callable[[Subject, Any], Awaitable[Any]]]] = {
    "gated": Subject._gated,
    "silent": Subject._silent,
    "endless": Subject._endless,
    "events": Subject._events,
    "counted": Subject._counted,
    "paused": Subject._paused,
    "hanging": Subject._hanging,
    "upload": Subject._upload,
}
"""Behaviours with a gate, by name."""
