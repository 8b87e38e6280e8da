"""Problem documents for refused handshakes of WebSockets."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import STATUS_PHRASES
from websockets.datastructures import Headers
from websockets.http11 import Response

from serve_bridge.context import new_request_id
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.refusing_app import answer_of
from serve_bridge.http_server.websocket_frames import FrameProtocol


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
