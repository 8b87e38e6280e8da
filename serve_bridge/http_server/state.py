"""What the connections of one server share."""

from __future__ import annotations

import logging
import math
import time
from typing import Final

from uvicorn.server import ServerState

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.allowed_hosts import allowed_hosts, allowed_origins
from serve_bridge.http_server.buffers import Buffers
from serve_bridge.http_server.places import Places
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.request_head import RequestHead
from serve_bridge.http_server.request_line import FramingLimits
from serve_bridge.http_server.trusted_peers import TrustedPeers
from serve_bridge.http_server.turns import Turns

__all__ = ["NO_ROOM", "EdgeState"]

NO_ROOM: Final = 503
"""Status of the answer to a body for which there is no room."""
FULL_WRITE_TIMEOUT_S: Final = 1.0
"""What is left of `write_timeout_s` while there is no room for anything more."""

SHARE_NOTED_S: Final = 60.0
"""Time in seconds between two warnings of clients that have their share of the connections."""


class EdgeState(ServerState):
    """What the connections of one server share.

    Attributes:
        options: Limits and deadlines.
        framing: The part of them that the framer enforces.
        trusted: Whose forwarding headers are believed.
        hosts: The hosts by which clients may address the server.
        origins: The hosts whose pages may open a WebSocket.
        buffers: What is held for clients.
        places: The places of connections.
        impatience: Part of each deadline that is taken away since the server is full, as of the last sweep.
        turns: How much of what clients have sent is worked off in one turn of the loop.
        refusals: The requests that were not served.
        draining: The server ends.
        idle_grace_s: How long a connection may stay idle, whatever its own deadline. If that has an end, since the
            server is full, holds much or ends, answers close their connections.
        cancels: The task of a request is cancelled when its client leaves; else the application is only told.
        answer_window_bytes: Upper limit for the bytes of one answer that the application may hold beside those it sent.
        date_line: The Date header of answers, as a line.
    """

    def __init__(
        self, options: HTTPOptions, buffers: Buffers | None, refusals: RefusalLog | None, most_connections: int
    ) -> None:
        super().__init__()
        self.options = options
        self.framing = FramingLimits(
            options.max_request_line_bytes,
            options.max_header_bytes,
            options.max_headers,
            options.max_body_bytes,
        )
        self.trusted = TrustedPeers(options.trusted_proxies)
        self.logger = logging.getLogger("serve_bridge.proxy")
        self.hosts = allowed_hosts(options)
        self.origins = allowed_origins(options)
        self.refusals = refusals or RefusalLog(self.logger)
        self.buffers = buffers or Buffers(options.max_buffered_bytes, self.logger)
        self.places = Places(
            most_connections,
            options.max_connections_per_client,
            unlimited=self.trusted.__contains__,
        )
        self.impatience = 0.0
        self._share_noted_s = -math.inf
        self.turns = Turns()
        self.draining = False
        self.idle_grace_s = math.inf
        self.cancels = False
        self.answer_window_bytes = 0
        self.date_line = b""

    def admit(self, head: RequestHead) -> Refusal | None:
        """Return why the request of *head* is not served; None: it is."""
        if head.host and not self.hosts.allows(head.host):
            return Refusal(421, "the host is not one of this server (http option allowed_hosts)")
        if head.body_length != 0 and not self.buffers.take_bodies:
            self.buffers.refused()
            return Refusal(NO_ROOM, "the server holds too much for others")
        if head.websocket:
            for name, value in head.headers:
                if name == b"origin" and not self.origins.allows_origin(value):
                    return Refusal(403, "the origin is not one of this server (http option allowed_origins)")
        return None

    def note_share(self, client: tuple[str, int] | None) -> None:
        """Warn of a client whose requests take all of its share, but not for each request."""
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

    @property
    def write_timeout_s(self) -> float:
        """Time a client may take nothing of its answer."""
        given = self.options.write_timeout_s
        return min(given, FULL_WRITE_TIMEOUT_S) if self.buffers.full else given

    def connection_closed(self) -> None:
        """Called after a connection left `connections`."""
