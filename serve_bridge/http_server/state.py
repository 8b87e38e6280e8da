"""The state shared by all connections of one server."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from uvicorn.server import ServerState as UvicornState

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.allowed_hosts import AllowedHosts, allowed_hosts, allowed_origins
from serve_bridge.http_server.buffers import Buffers
from serve_bridge.http_server.places import Places
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.request_head import RequestHead
from serve_bridge.http_server.request_line import FramingLimits
from serve_bridge.http_server.trusted_peers import TrustedPeers
from serve_bridge.http_server.turns import Turns

__all__ = ["NO_ROOM", "ServerState"]

NO_ROOM: Final = 503
"""Status of the answer to a request for which the server has no room."""

FULL_WRITE_TIMEOUT_S: Final = 1.0
"""Upper limit for `write_timeout_s`, in seconds, while the buffers are full."""

SHARE_NOTED_S: Final = 60.0
"""Time in seconds between two warnings of clients with too many requests."""


class ServerState(UvicornState):
    """The state shared by all connections of one server.

    Attributes:
        options: Limits and deadlines.
        framing: Upper limits for a request, for the framer.
        trusted: Peers whose forwarding headers the server believes.
        hosts: Hosts by which clients may address the server.
        origins: Hosts whose pages may open a WebSocket.
        buffers: Bytes held for clients.
        places: Places of connections.
        impatience: Part by which each deadline shrinks, as of the last sweep.
        turns: Budget for received bytes in one turn of the loop.
        refusals: Count and log of the refused requests.
        draining: Whether the server ends.
        idle_grace_s: Upper limit for the idle time of a connection, in seconds. It is finite if the server is full,
            holds many bytes, or drains. Then each answer closes its connection.
        cancels: Whether the server cancels the task of a request when its client leaves. If not, the application learns
            of it only through `receive`.
        answer_window_bytes: Upper limit for the unsent bytes of one answer in the application's memory.
        date_line: The Date header of answers, as a line.
        changed: Set when a connection was opened or has closed, and at least once in each sweep.
    """

    def __init__(
        self,
        options: HTTPOptions,
        buffers: Buffers | None,
        refusals: RefusalLog | None,
        most_connections: int,
        resume: Callable[[], None],
    ) -> None:
        """Share *options*, *buffers*, *refusals* and *most_connections* places.

        *resume* is called when a connection has closed, or waits although all places are taken.
        """
        super().__init__()
        self.options = options
        self.framing: FramingLimits = FramingLimits(
            options.max_request_line_bytes,
            options.max_header_bytes,
            options.max_headers,
            options.max_body_bytes,
        )
        self.trusted: TrustedPeers = TrustedPeers(options.trusted_proxies)
        self.logger: logging.Logger = logging.getLogger("serve_bridge.proxy")
        self.hosts: AllowedHosts = allowed_hosts(options)
        self.origins: AllowedHosts = allowed_origins(options)
        self.refusals: RefusalLog = refusals or RefusalLog(self.logger)
        self.buffers: Buffers = buffers or Buffers(options.max_buffered_bytes, self.logger)
        self.places: Places = Places(
            most_connections,
            options.max_connections_per_client,
            unlimited=self.trusted.__contains__,
        )
        self.impatience: float = 0.0
        self.turns: Turns = Turns()
        self.draining = False
        self.idle_grace_s: float = math.inf
        self.cancels = False
        self.answer_window_bytes = 0
        self.date_line: bytes = b""
        self.changed: asyncio.Event = asyncio.Event()
        self._resume = self.places.changed = resume
        self._share_noted_s = -math.inf

    def admit(self, head: RequestHead) -> Refusal | None:
        """Return why the server refuses the request of *head*; None: it serves the request."""
        if head.host and not self.hosts.allows(head.host):
            return Refusal(421, "the host is not one of this server (http option allowed_hosts)")
        if head.body_length != 0 and not self.buffers.take_bodies:
            self.buffers.refused()
            return Refusal(NO_ROOM, "the server has reached its memory limit")
        if head.websocket:
            for name, value in head.headers:
                if name == b"origin" and not self.origins.allows_origin(value):
                    return Refusal(403, "the origin is not one of this server (http option allowed_origins)")
        return None

    def note_share(self, client: tuple[str, int] | None) -> None:
        """Warn of a client whose requests use up its share, but at most once per `SHARE_NOTED_S`."""
        now = time.monotonic()
        if now >= self._share_noted_s + SHARE_NOTED_S:
            self._share_noted_s = now
            self.logger.warning(
                "%s has %d requests under way, its share of max_connections; more are refused with 503 "
                "(max_connections_per_client; a proxy in front belongs into trusted_proxies)",
                client and client[0],
                self.places.share,
            )

    def note_refusal(self, refusal: Refusal, request_id: str) -> None:
        """Count and log a refused request."""
        # The buffers log one warning for all refusals that a lack of room causes.
        level = logging.DEBUG if refusal.status == NO_ROOM else logging.INFO
        self.refusals.note(refusal, request_id, level=level)

    def set_date(self) -> None:
        """Set the Date header of the answers that follow."""
        date = formatdate(time.time(), usegmt=True).encode()
        self.date_line = b"date: %b\r\n" % date
        self.default_headers = [(b"date", date)]  # for uvicorn's WebSockets

    @property
    def write_timeout_s(self) -> float:
        """Upper limit for the time in seconds in which a client takes no byte of its answer."""
        given = self.options.write_timeout_s
        return min(given, FULL_WRITE_TIMEOUT_S) if self.buffers.full else given

    def connection_closed(self) -> None:
        """Note the removal of a connection from `connections`."""
        self.changed.set()
        self._resume()
