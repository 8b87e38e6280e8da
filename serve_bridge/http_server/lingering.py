"""The end of a connection: its client gets the last answer, even if it still sends.

If a process closes a socket with unread bytes, the kernel resets the connection. Then the client may lose an answer on
its way (RFC 9112 section 9.6). So the server first ends its own direction, and drops the bytes of the client. nginx
calls this a lingering close.
"""

from __future__ import annotations

import math
from typing import Final

from serve_bridge.http_server.client_connection import ClientConnection
from serve_bridge.http_server.connection_deadlines import ConnectionDeadlines
from serve_bridge.http_server.http_framing import RequestFramer

__all__ = ["ANSWER_LINGER_S", "DRAIN_LINGER_S", "LingeringClose"]

QUICKLY_SENT_BYTES: Final = 16 * 1024
"""Upper limit for the unsent bytes, in bytes, up to which a TLS connection closes without lingering.

So few bytes leave soon even to a slow client.
"""

ANSWER_LINGER_S: Final = 1.0
"""Time in seconds for the client to read the last answer before a connection with unread bytes closes."""
DRAIN_LINGER_S: Final = 0.25
"""The same time while the server drains."""

UPLOAD_LINGER_S: Final = 5.0
"""Upper limit for a pause in the upload of a lingering connection, in seconds.

Some clients, such as Python's http.client, send their whole body before they read. They get an early answer only if the
server reads the body. nginx has the same limits, `lingering_timeout` and `lingering_time`.
"""
MOST_LINGER_S: Final = 30.0
"""Upper limit for the whole time of such an upload after the answer, in seconds."""


class LingeringClose:
    """Closes one connection.

    Attributes:
        begun: Whether the server has ended its own direction, and drops the bytes of the client.
    """

    __slots__ = ("_connection", "_deadlines", "_ends_s", "_framer", "_received_s", "_upload_left", "begun")

    def __init__(self, connection: ClientConnection, framer: RequestFramer, deadlines: ConnectionDeadlines) -> None:
        self._connection = connection
        self._framer = framer
        self._deadlines = deadlines
        self.begun: bool = False
        self._upload_left = 0.0
        self._received_s = self._ends_s = 0.0

    def close(self) -> None:
        """Close once the client has received all written bytes. If the client still sends, linger."""
        connection = self._connection
        # asyncio limits the time in which a TLS connection closes, so a slow client could lose the end of its answer.
        is_slow = connection.is_tls and connection.queue.unsent() > QUICKLY_SENT_BYTES
        if is_slow or self._framer.buffered or not self._framer.at_head:
            self.linger()
        else:
            self._end()

    def linger(self) -> None:
        """End the server's own direction. Read on and drop the bytes until the client closes, too."""
        connection = self._connection
        framer = self._framer
        self.begun = True
        now, left = connection.loop.time(), framer.body_left - framer.buffered
        self._upload_left = left if left > 0 else math.inf  # a refused head does not tell what follows it
        self._received_s = now if left > 0 else -math.inf
        self._ends_s = now + (ANSWER_LINGER_S if connection.server_state.draining else MOST_LINGER_S)
        framer.discard()
        self._wait()
        if not connection.is_tls:  # TLS cannot end one direction alone
            connection.transport.write_eof()
        connection.flow.resume_reading()

    def drop(self, count: int) -> None:
        """Count *count* dropped bytes of the client."""
        self._upload_left -= count
        self._received_s = self._connection.loop.time()

    def expire(self, *, busy: bool) -> None:
        """Close because a deadline has passed. If the connection has lingered for long enough, abort it.

        Args:
            busy: Whether a request has no complete answer yet.
        """
        connection = self._connection
        if connection.transport.is_closing() or self.begun:
            self._end_lingering()
        elif busy or connection.is_tls:
            self._end()
        else:  # so a request that crosses with the close gets a FIN, not a reset
            self.linger()

    def _end(self) -> None:
        connection = self._connection
        connection.transport.close()
        if connection.is_tls:  # a TLS client ends its own side, too, so the close takes a round trip
            self._wait()

    def _wait(self) -> None:
        connection = self._connection
        now = connection.loop.time()
        self._deadlines.allow(now, DRAIN_LINGER_S if connection.server_state.draining else ANSWER_LINGER_S)
        connection.place.wait(now)

    def _end_lingering(self) -> None:
        connection = self._connection
        if self._upload_goes_on() or connection.queue.unsent():  # the sweep aborts a client without progress
            self._wait()
        elif connection.is_tls and not connection.transport.is_closing():
            self._end()
        else:
            connection.transport.abort()

    def _upload_goes_on(self) -> bool:
        now = self._connection.loop.time()
        return self._upload_left > 0 and now < min(self._ends_s, self._received_s + UPLOAD_LINGER_S)
