"""Answers to refused and denied handshakes of WebSockets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import STATUS_PHRASES
from websockets.datastructures import Headers
from websockets.http11 import Response

from serve_bridge.context import new_request_id
from serve_bridge.http.answers import is_bodyless
from serve_bridge.http.headers import HOP_BY_HOP
from serve_bridge.http_server.answer_writer import chunk
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.refusing_app import answer_of
from serve_bridge.http_server.websocket_frames import FrameProtocol


class WarningLogger(logging.LoggerAdapter[logging.Logger]):
    """Passes warnings and errors on, and drops the access log of uvicorn and `websockets`, which has queries."""

    level = logging.WARNING

    def isEnabledFor(self, level: int) -> bool:
        """Return whether a record of *level* is logged."""
        return level >= self.level and super().isEnabledFor(level)


class Denial:
    """The answer with which an application denies a handshake: a head, and a body in pieces.

    Attributes:
        response: The head.
    """

    def __init__(self, status: int, given: Sequence[tuple[str, str]], length: int | None) -> None:
        """Deny with *status* and the headers *given*; *length*: of the whole body, None: unknown."""
        headers = Headers([pair for pair in given if pair[0].lower().encode() not in HOP_BY_HOP])
        headers["Connection"] = "close"
        headers.setdefault("Date", formatdate(usegmt=True))
        self._chunked = False
        self._left = 0
        if is_bodyless(status):
            if "Content-Length" in headers:
                del headers["Content-Length"]
        elif "Content-Length" in headers or length is not None:
            self._left = int(headers.setdefault("Content-Length", str(length)))
        else:
            self._chunked = True
            headers["Transfer-Encoding"] = "chunked"
        self.response: Response = Response(status, STATUS_PHRASES[status], headers)

    def framed(self, body: bytes, *, last: bool) -> bytes:
        """Return a piece of the body as it is sent. A body longer than its Content-Length is cut."""
        if self._chunked:
            return chunk(body, last=last)
        body = body[: self._left]
        self._left -= len(body)
        return body


class RefusingFrameProtocol(FrameProtocol):
    """The frames of one connection. If `websockets` rejects the handshake, the client gets a problem document."""

    def __init__(self, refusals: RefusalLog, **options: Any) -> None:
        super().__init__(**options)
        self._refusals = refusals

    def reject(self, status: int, text: str) -> Response:
        """Return the answer to a handshake with malformed subprotocols or extensions, or after an error of the app."""
        refusal, request_id = Refusal(int(status), text.strip()), new_request_id()
        if status < 500:
            self._refusals.note(refusal, request_id)
        answer = answer_of(refusal, request_id)
        given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        headers = Headers([*given, ("date", formatdate(usegmt=True)), ("connection", "close")])
        return Response(answer.status, STATUS_PHRASES[answer.status], headers, answer.body)
