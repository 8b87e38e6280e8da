"""The backend behind the contract: what it does is named by the path, how far it gets by who calls its methods.

Rule 1: one replica holds all of its state, so that a test can ask for it, whatever the runtime.
Rule 2: nothing here waits for a time: what waits does so for `open`, or for the end of its request.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.websockets import WebSocket

from serve_bridge.api import get_handle
from serve_bridge.context import request_id
from serve_bridge.errors import DeadlineExceeded

STATE_NAMES: Final = ("method", "user", "missing")
"""Of a request's state these are told."""
PART: Final = b"0123456789abcdef" * 4096
PARTS: Final = tuple(f"{number}\n" * 50_000 for number in range(3))

LARGE: Final = 100_000
"""Characters of an answer that is whole and longer than what fits into the head of one."""
MIXED_HEADERS: Final = (
    *((b"Set-Cookie", b"a=1"), (b"SET-COOKIE", b"b=2"), (b"X-Own", b"1")),
    *((b"X-Serve-Executed", b"no"), (b"X-Request-ID", b"forged"), (b"Connection", b"X-Hop"), (b"X-Hop", b"1")),
)
"""Headers of an answer as ASGI and WSGI allow them: in any case."""


class Subject:
    """Answers as the path says: `/echo`, `/answer` and so on."""

    def __init__(self) -> None:
        self._open: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._begun: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._ended: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._produced: defaultdict[str, int] = defaultdict(int)

    async def __call__(self, request: Any) -> Any:
        """Do what the first part of the path that names something says."""
        if isinstance(request, WebSocket):
            return await _answer_websocket(request)
        name = next(part for part in request.url.path.split("/") if part in BEHAVIOURS)
        return await BEHAVIOURS[name](self, request)

    def add(self, data: Any, by: str = "0") -> Any:
        """Return the sum; a method that a route may name."""
        return {"sum": data + int(by)}

    async def open(self, gate: str) -> None:
        """Let go on what waits at *gate*."""
        self._open[gate].set()

    async def begun(self, gate: str) -> bool:
        """Return once the request of *gate* has begun."""
        return await self._begun[gate].wait()

    async def ended(self, gate: str) -> bool:
        """Return once the request of *gate* has ended, or was given up."""
        return await self._ended[gate].wait()

    async def produced(self, gate: str) -> int:
        """Return how many bytes the request of *gate* has produced."""
        return self._produced[gate]

    # behaviours

    async def _echo(self, request: Any) -> Any:
        return {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "scheme": request.url.scheme,
            "netloc": request.url.netloc,
            "client": request.client.host if request.client else None,
            "params": {name: [type(value).__name__, str(value)] for name, value in request.path_params.items()},
            "headers": request.headers.items(),
            "state": {name: getattr(request.state, name, "absent") for name in STATE_NAMES},
            "body": (await request.body()).decode(),
            "request_id": request_id(),
        }

    async def _digest(self, request: Any) -> Any:
        digest, size = hashlib.sha256(), 0
        async for chunk in request.stream():
            digest.update(chunk)
            size += len(chunk)
        return {"size": size, "digest": digest.hexdigest()}

    async def _form(self, request: Any) -> Any:
        async with request.form() as fields:
            return {
                name: value if isinstance(value, str) else [value.filename, (await value.read()).decode()]
                for name, value in fields.items()
            }

    async def _answer(self, request: Any) -> Any:
        response = Response(b"teapot", 418, media_type="text/x")
        response.raw_headers += [(b"x-own", b"1"), (b"x-serve-secret", b"2"), (b"x-many", b"1"), (b"x-many", b"2")]
        response.set_cookie("a", "1")
        response.set_cookie("b", "2", path="/b", httponly=True)
        response.set_cookie("a", "3", path="/a")
        return response

    async def _mixed(self, request: Any) -> Any:
        if "raised" in request.query_params:
            raise HTTPException(418, headers={"X-Serve-Executed": "no", "X-Request-Id": "forged", "X-Own": "1"})
        response = Response(b"body", media_type="text/plain")
        if "streamed" in request.query_params:
            response = StreamingResponse(iter([b"body"]), media_type="text/plain")
        response.raw_headers += MIXED_HEADERS
        return response

    async def _buffered(self, request: Any) -> Any:
        headers = {"X-Accel-Buffering": "yes"}
        return StreamingResponse(iter([b"1", b"2"]), headers=headers, media_type="text/event-stream")

    async def _large(self, request: Any) -> Any:
        return "x" * LARGE

    async def _mismatched(self, request: Any) -> Any:
        declared = request.query_params["declared"]
        pieces = [b"12345"] * int(request.query_params["pieces"])
        return StreamingResponse(iter(pieces), headers={"content-length": declared}, media_type="text/plain")

    async def _nothing(self, request: Any) -> Any:
        # What there is all the same must not leave.
        return StreamingResponse(iter([b"something"]), int(request.query_params["status"]))

    async def _lines(self, request: Any) -> Any:
        async def lines() -> AsyncIterator[str]:
            for part in PARTS:
                yield part

        return StreamingResponse(lines(), media_type="text/plain")

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
            return await self._digest(request)
        finally:
            self._ended[request.query_params["gate"]].set()

    async def _early(self, request: Any) -> Any:
        return JSONResponse({"enough": True}, 202)

    async def _duplex(self, request: Any) -> Any:
        return StreamingResponse(request.stream(), media_type="application/octet-stream")

    async def _failing(self, request: Any) -> Any:
        kind = request.query_params["kind"]
        if kind == "http":
            raise HTTPException(451, "for legal reasons", headers={"x-why": "law"})
        if kind == "exit":
            raise SystemExit(3)
        if kind == "result":
            return object()
        if kind == "missing":
            return await get_handle("nowhere", missing_ok=True).acall()
        if kind == "late":
            raise DeadlineExceeded("a call of this backend took too long", "unknown")
        if kind == "own":
            raise _OddError("secret", "text")
        raise RuntimeError("secret")

    async def _broken(self, request: Any) -> Any:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a part"
            raise RuntimeError("secret")

        # The length is how a client can tell, whatever the server.
        return StreamingResponse(parts(), headers={"content-length": "100"}, media_type="text/plain")

    async def _injecting(self, request: Any) -> Any:
        if "raised" in request.query_params:
            raise HTTPException(400, headers={"x-own": "1\r\nx-injected: 1"})
        response = Response(b"", media_type="text/plain")
        response.raw_headers.append((b"x-own", b"1\r\nx-injected: 1"))
        return response


class _OddError(Exception):
    """Cannot be rebuilt from its pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


async def _answer_websocket(websocket: WebSocket) -> None:
    """Echo each message after a description of the request."""
    if "deny" in websocket.query_params:
        denial = Response(b"body", 418)
        denial.raw_headers += MIXED_HEADERS
        await websocket.send_denial_response(denial)
        return
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None, headers=MIXED_HEADERS)
    await websocket.send_json(
        {
            "path": websocket.url.path,
            "query": websocket.url.query,
            "params": websocket.path_params,
            "headers": websocket.headers.items(),
            "request_id": request_id(),
        }
    )
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message.get("text") == "close":
            await websocket.close(4001, "as you wish")
            return
        if message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


Behaviour = Callable[[Subject, Any], Awaitable[Any]]

BEHAVIOURS: Final[Mapping[str, Behaviour]] = {
    "echo": Subject._echo,
    "typed": Subject._echo,
    "digest": Subject._digest,
    "form": Subject._form,
    "answer": Subject._answer,
    "mixed": Subject._mixed,
    "buffered": Subject._buffered,
    "large": Subject._large,
    "mismatched": Subject._mismatched,
    "nothing": Subject._nothing,
    "lines": Subject._lines,
    "gated": Subject._gated,
    "silent": Subject._silent,
    "endless": Subject._endless,
    "events": Subject._events,
    "counted": Subject._counted,
    "paused": Subject._paused,
    "hanging": Subject._hanging,
    "upload": Subject._upload,
    "early": Subject._early,
    "duplex": Subject._duplex,
    "failing": Subject._failing,
    "broken": Subject._broken,
    "injecting": Subject._injecting,
}
