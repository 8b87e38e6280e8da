"""The requests on one connection, one after the other.

The framer cuts the received bytes into heads and pieces of bodies. Each head begins an exchange.

Rule 1: the framer alone decides where a message begins and ends. No other parser reads the same bytes.
Rule 2: one request at a time. Pipelined requests wait as bytes, so a refusal never overtakes an answer.
Rule 3: if a request can be read, the application answers its refusal, inside the middlewares. If the bytes cannot be
read as a request, this module answers.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from serve_bridge.context import new_request_id
from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.request_id import request_id_of
from serve_bridge.http_server.buffers import Share
from serve_bridge.http_server.client_connection import ClientConnection
from serve_bridge.http_server.connection_deadlines import ConnectionDeadlines
from serve_bridge.http_server.http_exchange import Exchange
from serve_bridge.http_server.http_framing import RequestFramer
from serve_bridge.http_server.lingering import LingeringClose
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusing_app import REFUSAL, answer_of
from serve_bridge.http_server.request_head import RequestHead
from serve_bridge.http_server.server_answers import closing_answer
from serve_bridge.http_server.state import NO_ROOM

__all__ = ["RequestSequence"]

UNREAD_BYTES: Final = 64 * 1024
"""Upper limit, in bytes, for the unread rest of a body on a connection kept alive."""

BODY_HELD_BYTES: Final = HIGH_WATER_LIMIT + 256 * 1024
"""Upper limit for the bytes of one request's body in memory: the mark at which reading pauses, and one more read."""

PIECE_COST: Final = 2048
"""Cost of a piece of a body, beside its bytes, in the budget of a turn."""
OVERHEAD_COST: Final = 64
"""Cost of each byte of framing around a piece in that budget.

A chunk of one byte has five bytes of framing, and takes as long as reading some hundred bytes.
"""


class RequestSequence:
    """The requests on one connection.

    Attributes:
        exchange: The latest request; None before the first.
        busy: Whether the answer to the latest request is not complete.
        reading_head: Whether the client must send the head of a request, or the rest of one, within the header timeout.
        refused: Whether the latest request was refused. Then the connection reads no other request.
    """

    __slots__ = (
        "_app",
        "_closing",
        "_connection",
        "_deadlines",
        "_framer",
        "_task",
        "busy",
        "exchange",
        "reading_head",
        "refused",
    )

    def __init__(
        self,
        app: ASGIApp,
        connection: ClientConnection,
        framer: RequestFramer,
        deadlines: ConnectionDeadlines,
        closing: LingeringClose,
    ) -> None:
        self._app = app
        self._connection = connection
        self._framer = framer
        self._deadlines = deadlines
        self._closing = closing
        self._task: asyncio.Task[None] | None = None
        self.exchange: Exchange | None = None
        self.reading_head: bool = True
        self.busy: bool = False
        self.refused: bool = False

    # From bytes to requests

    def serve_received(self) -> None:
        """Serve all complete requests among the received bytes."""
        framer, connection = self._framer, self._connection
        if connection.flow.in_line:
            return
        try:
            while not (framer.at_head and self.busy):
                before = framer.buffered
                piece = framer.next_piece()
                if piece is None:
                    break
                if isinstance(piece, bytes):
                    self._take_body(piece)
                    if framer.buffered and not self._may_go_on(before - framer.buffered, len(piece)):
                        return
                else:
                    self._begin(piece)
                if connection.gave_up or self.refused:
                    return
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if not framer.at_head or not framer.buffered:
            return
        if self.busy:
            if framer.buffered >= UNREAD_BYTES:
                connection.flow.pause_reading()
        elif not self.reading_head:
            self.reading_head = True
            self._deadlines.allow(connection.loop.time(), connection.server_state.options.header_timeout_s)

    def _may_go_on(self, taken: int, size: int) -> bool:
        """Pay for a piece of *size* bytes, *taken* with its framing. If the budget is used up, wait for a turn."""
        connection = self._connection
        turns = connection.server_state.turns
        turns.spend(PIECE_COST + size + OVERHEAD_COST * (taken - size))
        if turns.left > 0:
            return True
        connection.flow.pause_reading()
        connection.flow.in_line = True
        turns.wait(self._take_turn)
        return False

    def _take_turn(self) -> None:
        connection = self._connection
        connection.flow.in_line = False
        if connection.gave_up or self._closing.begun or connection.transport.is_closing():
            return
        if not self.busy or self.exchange is None or self.exchange.body.held <= HIGH_WATER_LIMIT:
            connection.flow.resume_reading()
        self.serve_received()

    def _begin(self, head: RequestHead) -> None:
        """Begin to serve a request."""
        connection = self._connection
        state = connection.server_state
        if not connection.place.serve():
            state.note_share(connection.scope.client)
            head.refusal = Refusal(NO_ROOM, "this client has too many requests under way")
        if head.websocket:
            connection.upgrade(head, self._framer.rest())
            return
        scope = connection.scope.of(head)
        self.reading_head = False
        self._deadlines.next_s = math.inf
        if head.refusal is not None:
            self._serve_refusal(scope, head.refusal)
            return
        exchange = self._run(
            Exchange(
                self._app,
                scope,
                connection,
                self,
                keep_alive=head.keep_alive,
                expects_100_continue=head.expects_continue,
            )
        )
        if self._framer.at_head:
            exchange.body.end(0)
        else:
            self._deadlines.expect_body(state.options.min_body_rate)
            share = exchange.body.share = Share(state.buffers)
            share.add(min(self._framer.body_left, BODY_HELD_BYTES))

    def _run(self, exchange: Exchange) -> Exchange:
        self.exchange = exchange
        self.busy = True
        # Not a `TaskSet`: `run` logs its own errors, and a callback in Python would cost time for each request.
        task = self._task = self._connection.loop.create_task(exchange.run())
        tasks = self._connection.server_state.tasks
        task.add_done_callback(tasks.discard)
        tasks.add(task)
        return exchange

    def _take_body(self, piece: bytes) -> None:
        """Pass a piece of a body on. If the application does not read it, stop reading from the client."""
        exchange = self.exchange
        assert exchange is not None
        if exchange.answer.complete:
            return
        if piece:
            exchange.body.add(piece)
        if self._framer.at_head:
            exchange.body.end(self._framer.body_received)
        elif exchange.body.held > HIGH_WATER_LIMIT:
            self._connection.flow.pause_reading()

    # For the answer

    def may_keep_alive(self) -> bool:
        """Return whether the connection may serve another request after the current answer."""
        framer = self._framer
        return (framer.at_head or framer.body_left <= UNREAD_BYTES) and (
            self._connection.server_state.idle_grace_s == math.inf
        )

    def on_response_complete(self) -> None:
        """Begin the next request, or close."""
        self.busy = False
        connection = self._connection
        if connection.transport.is_closing() or connection.gave_up:
            return
        if self.exchange is None or not self.exchange.answer.keep_alive:
            self._closing.close()
            return
        state = connection.server_state
        self._deadlines.allow(connection.loop.time(), min(state.options.keep_alive_timeout_s, state.idle_grace_s))
        connection.flow.resume_reading()
        if self._framer.buffered:
            self.serve_received()
        if self.busy or connection.gave_up:  # the next request has begun, or it has opened a WebSocket
            return
        if connection.half_closed:
            self._closing.close()
        else:
            connection.place.wait(connection.loop.time())

    # Refusals

    def _serve_refusal(self, scope: Scope, refusal: Refusal) -> None:
        """Let the application answer a refused, readable request. The connection closes after the answer."""
        request_id = request_id_of(scope["headers"])
        connection = self._connection
        connection.server_state.note_refusal(refusal, request_id)
        self.refused = True
        self._framer.refuse()
        connection.flow.resume_reading()
        scope = {**scope, "state": {}, REFUSAL: (refusal, request_id), BODY_LENGTH: 0}
        exchange = Exchange(self._app, scope, connection, self, keep_alive=False, expects_100_continue=False)
        self._run(exchange).body.end(0)

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse bytes that are not a request, or not the rest of a request. Then close.

        If the answer to the request has begun, abort the connection instead.
        """
        exchange = self.exchange
        state = self._connection.server_state
        if exchange is None or not self.busy:
            request_id = new_request_id()
            state.note_refusal(refusal, request_id)
            if self._framer.at_head:
                self.answer_problem(refusal, request_id, bodyless=self._framer.begins_with_head)
            else:  # the request was answered, and only the rest of its body is malformed
                self._closing.linger()
        elif exchange.answer.started:
            state.note_refusal(refusal, request_id_of(exchange.scope["headers"]))
            self._abandon()
            self._connection.transport.abort()
        else:
            exchange.abandon()
            if state.cancels and self._task is not None:
                self._task.cancel()
            self._serve_refusal(exchange.scope, refusal)

    def answer_problem(self, refusal: Refusal, request_id: str, *, bodyless: bool) -> None:
        """Answer a request with a problem document, then close. No byte of another answer may have been sent.

        With *bodyless*, the client gets only the head of the answer, as for each HEAD request.
        """
        connection = self._connection
        date_line = connection.server_state.date_line
        connection.write(closing_answer(answer_of(refusal, request_id), date_line, bodyless=bodyless))
        self._abandon()
        if not connection.transport.is_closing():
            self._closing.linger()

    def _abandon(self) -> None:
        self._connection.gave_up = True
        if self.exchange is not None and self.busy:
            self.exchange.disconnect()
        self._connection.flow.resume_writing()

    def lose(self) -> None:
        """Tell the latest request that the connection is lost."""
        if self.exchange is not None:
            self.exchange.lose()
        if self._connection.server_state.cancels and self.busy and self._task is not None:
            self._task.cancel()
