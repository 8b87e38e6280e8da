"""The behaviours of the contract's backend for requests that it answers at once."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.websockets import WebSocket

from serve_bridge.api import get_handle
from serve_bridge.context import request_id
from serve_bridge.errors import (
    AuthenticationError,
    BackendOverloaded,
    ControlPlaneLost,
    DeadlineExceeded,
    EndpointNotFound,
    InstanceClosed,
    NotConnected,
    ReplicaDied,
    ServeBridgeError,
)

STATE_NAMES: Final = ("method", "user", "missing")
"""Attributes of `request.state` that `echo` returns."""
PARTS: Final = tuple(f"{number}\n" * 50_000 for number in range(3))
"""Parts of the answer of `lines`."""
LARGE: Final = 100_000
"""Length of the answer of `large` in characters; it does not fit into the first message of an answer."""
MIXED_HEADERS: Final = (
    *((b"Set-Cookie", b"a=1"), (b"SET-COOKIE", b"b=2"), (b"X-Own", b"1")),
    *((b"X-Serve-Executed", b"no"), (b"X-Request-ID", b"forged"), (b"Connection", b"X-Hop"), (b"X-Hop", b"1")),
)
"""Headers of an answer. Their names have upper-case letters, which ASGI and WSGI allow."""


REFUSALS: Final[Mapping[str, tuple[ServeBridgeError, int]]] = {
    type(error).__name__: (error, status)
    for error, status in (
        (AuthenticationError("text"), 502),
        (BackendOverloaded("text"), 503),
        (ControlPlaneLost("text"), 503),
        (DeadlineExceeded("text", "no"), 504),
        (EndpointNotFound("text"), 503),
        (InstanceClosed("text"), 503),
        (NotConnected("text"), 503),
        (ReplicaDied("text", "no"), 502),
    )
}
"""Errors of calls that user code makes, by name, with the status of the answer. No error proves that user code did not
run."""


async def echo(request: Any) -> Any:
    """Return what user code sees of the request."""
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


async def digest(request: Any) -> Any:
    """Return size and SHA-256 of the body, which is read piece by piece."""
    digest, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
    return {"size": size, "digest": digest.hexdigest()}


async def form(request: Any) -> Any:
    """Return the fields of a form; of a file its name and its text."""
    async with request.form() as fields:
        return {
            name: value if isinstance(value, str) else [value.filename, (await value.read()).decode()]
            for name, value in fields.items()
        }


async def answer(request: Any) -> Any:
    """Answer with a status, repeated headers, and cookies."""
    response = Response(b"teapot", 418, media_type="text/x")
    response.raw_headers += [(b"x-own", b"1"), (b"x-serve-secret", b"2"), (b"x-many", b"1"), (b"x-many", b"2")]
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", path="/b", httponly=True)
    response.set_cookie("a", "3", path="/a")
    return response


async def mixed(request: Any) -> Any:
    """Answer with `MIXED_HEADERS`: whole, streamed, or raised."""
    if "raised" in request.query_params:
        raise HTTPException(418, headers={"X-Serve-Executed": "no", "X-Request-Id": "forged", "X-Own": "1"})
    response = Response(b"body", media_type="text/plain")
    if "streamed" in request.query_params:
        response = StreamingResponse(iter([b"body"]), media_type="text/plain")
    response.raw_headers += MIXED_HEADERS
    return response


async def buffered(request: Any) -> Any:
    """Stream an answer that a reverse proxy may buffer."""
    headers = {"X-Accel-Buffering": "yes"}
    return StreamingResponse(iter([b"1", b"2"]), headers=headers, media_type="text/event-stream")


async def large(request: Any) -> Any:
    """Return a long text."""
    return "x" * LARGE


async def mismatched(request: Any) -> Any:
    """Stream an answer whose Content-Length is wrong."""
    declared = request.query_params["declared"]
    pieces = [b"12345"] * int(request.query_params["pieces"])
    return StreamingResponse(iter(pieces), headers={"content-length": declared}, media_type="text/plain")


async def nothing(request: Any) -> Any:
    """Answer with a status that allows no body, and a body that must not be sent."""
    return StreamingResponse(iter([b"something"]), int(request.query_params["status"]))


async def lines(request: Any) -> Any:
    """Stream `PARTS`."""

    async def lines() -> AsyncIterator[str]:
        for part in PARTS:
            yield part

    return StreamingResponse(lines(), media_type="text/plain")


async def early(request: Any) -> Any:
    """Answer without reading the body."""
    return JSONResponse({"enough": True}, 202)


async def duplex(request: Any) -> Any:
    """Stream the body back while it is received."""
    return StreamingResponse(request.stream(), media_type="application/octet-stream")


async def failing(request: Any) -> Any:
    """Fail in the way that the query names."""
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
    if kind in REFUSALS:
        raise REFUSALS[kind][0]
    if kind == "own":
        raise _OddError("secret", "text")
    raise RuntimeError("secret")


async def broken(request: Any) -> Any:
    """Break off an answer after its first part."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"a part"
        raise RuntimeError("secret")

    # By the length a client can tell that the answer broke off, whatever the server.
    return StreamingResponse(parts(), headers={"content-length": "100"}, media_type="text/plain")


async def injecting(request: Any) -> Any:
    """Answer with a header that contains a line end."""
    if "raised" in request.query_params:
        raise HTTPException(400, headers={"x-own": "1\r\nx-injected: 1"})
    response = Response(b"", media_type="text/plain")
    response.raw_headers.append((b"x-own", b"1\r\nx-injected: 1"))
    return response


class _OddError(Exception):
    """Cannot be rebuilt from its pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


async def converse(websocket: WebSocket) -> None:
    """Send what user code sees of the handshake, then echo each message."""
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


ANSWERS: Final[Mapping[str, Callable[[Any], Awaitable[Any]]]] = {
    "echo": echo,
    "typed": echo,
    "digest": digest,
    "form": form,
    "answer": answer,
    "mixed": mixed,
    "buffered": buffered,
    "large": large,
    "mismatched": mismatched,
    "nothing": nothing,
    "lines": lines,
    "early": early,
    "duplex": duplex,
    "failing": failing,
    "broken": broken,
    "injecting": injecting,
}
"""Behaviours by name, of requests that are answered at once."""
