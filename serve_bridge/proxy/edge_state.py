"""What the connections of one server share."""

from __future__ import annotations

import logging
import math

from uvicorn.server import ServerState

from serve_bridge.config import HTTPOptions
from serve_bridge.proxy.http_framing import FramingLimits
from serve_bridge.proxy.trusted_peers import TrustedPeers

__all__ = ["EdgeState"]


class EdgeState(ServerState):
    """What the connections of one server share.

    Attributes:
        options: Limits and deadlines.
        framing: The part of them that the framer enforces.
        trusted: Whose forwarding headers are believed.
        draining: The server ends.
        idle_grace_s: How long a connection may stay idle, whatever its own deadline. If that has an end, since the
            server is full or ends, answers close their connections.
        cancels: The task of a request is cancelled when its client leaves; else the application is only told.
        date_line: The Date header of answers, as a line.
    """

    def __init__(self, options: HTTPOptions) -> None:
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
        self.draining = False
        self.idle_grace_s = math.inf
        self.cancels = False
        self.date_line = b""

    def connection_closed(self) -> None:
        """Called after a connection left `connections`."""
