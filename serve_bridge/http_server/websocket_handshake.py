"""The handshake of a WebSocket that the server refuses."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import STATUS_PHRASES
from websockets.datastructures import Headers
from websockets.http11 import Response

from serve_bridge.http.request_id import request_id_of
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.refusing_app import answer_of
from serve_bridge.http_server.websocket_frames import FrameProtocol


class RefusingFrameProtocol(FrameProtocol):
    """The frames of one connection. A handshake that `websockets` rejects gets a problem document, as all refusals."""

    def __init__(self, refusals: RefusalLog, **options: Any) -> None:
        super().__init__(**options)
        self._refusals = refusals

    def reject(self, status: int, text: str) -> Response:
        """Return the answer to a handshake with malformed subprotocols or extensions, or whose application failed."""
        refusal, request_id = Refusal(int(status), text.strip()), request_id_of([])
        if status < 500:
            self._refusals.note(refusal, request_id)
        answer = answer_of(refusal, request_id)
        given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        headers = Headers([*given, ("date", formatdate(usegmt=True)), ("connection", "close")])
        return Response(answer.status, STATUS_PHRASES[answer.status], headers, answer.body)
