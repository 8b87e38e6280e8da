"""Calling ASGI applications by hand, message by message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Message = dict[str, Any]
BODY: Message = {"type": "http.request", "body": b"", "more_body": False}
LEFT: Message = {"type": "http.disconnect"}


def http_scope(path: str = "/", method: str = "GET", **more: Any) -> Message:
    """Return the scope of a request."""
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"testserver")],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    return {**scope, **more}


def called(app: Any, scope: Message, messages: Iterable[Message | Callable[[], Awaitable[Message]]] = (BODY,)) -> Any:
    """Run *app* for one scope; return what it has sent.

    Each of *messages* is received, or a function that waits for it. After the last one nothing comes any more. As with
    servers, a cancelled `receive` loses no message.
    """
    sent: list[Message] = []
    left = deque(messages)

    async def receive() -> Message:
        if not left:
            await asyncio.get_running_loop().create_future()
        message = left[0] if isinstance(left[0], dict) else await left[0]()
        left.popleft()
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def types_of(sent: Iterable[Message]) -> list[str]:
    """Return the types of messages."""
    return [message["type"] for message in sent]


def body_of(sent: Iterable[Message]) -> bytes:
    """Return the body that was sent."""
    return b"".join(message.get("body", b"") for message in sent)
