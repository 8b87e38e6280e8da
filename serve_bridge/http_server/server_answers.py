"""The server's own answers, and complete answers as ASGI messages."""

from __future__ import annotations

from starlette.types import Send

from serve_bridge.http.answers import Answer
from serve_bridge.http_server.answer_writer import status_line

__all__ = ["closing_answer", "send_answer"]


async def send_answer(send: Send, answer: Answer) -> None:
    """Send a complete answer as ASGI messages."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


def closing_answer(answer: Answer, date_line: bytes, *, bodyless: bool) -> bytes:
    """Return the bytes of *answer*, after which the connection closes; with *bodyless*, only those of its head."""
    lines = [status_line(answer.status)]
    for name, value in answer.headers:
        lines += (name, b": ", value, b"\r\n")
    return b"".join([*lines, date_line, b"connection: close\r\n\r\n", b"" if bodyless else answer.body])
