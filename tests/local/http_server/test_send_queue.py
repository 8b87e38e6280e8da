"""The count of unsent bytes of a TLS connection whose client has gone."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct

import pytest
import trustme

from serve_bridge.http_server.buffers import Buffers
from serve_bridge.http_server.send_queue import SendQueue
from tests.support.waiting import reached


class Watched(asyncio.Protocol):
    """Notes its transport and the end of its connection."""

    transport: asyncio.Transport
    is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note *transport*."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end."""
        self.is_lost = True


@pytest.mark.parametrize("end", ["reset", "abort", "close"])
def test_a_tls_connection_that_has_ended_holds_no_unsent_bytes(end: str) -> None:
    """The transport has no socket any more; the sweep of the server, which looks at all connections, goes on."""
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(theirs)
    authority.issue_cert("localhost").configure_cert(ours)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Watched] = []

        def protocol() -> Watched:
            made.append(Watched())
            return made[-1]

        server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=ours)
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=theirs, server_hostname="localhost")
        await reached(lambda: bool(made) and hasattr(made[0], "transport"))
        queue = SendQueue(
            made[0].transport, Buffers(1 << 20, logging.getLogger("serve_bridge.proxy")), is_tls=True, least_rate=1
        )
        queue.write(b"x" * (4 << 20))  # more than the kernel takes, and the client reads nothing
        assert queue.unsent() > 0
        if end == "reset":
            client: socket.socket = writer.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif end == "abort":
            made[0].transport.abort()
        else:
            made[0].transport.close()
            writer.transport.abort()
        await reached(lambda: made[0].is_lost)
        assert queue.unsent() >= 0
        queue.is_too_slow(1.0, 1.0)
        writer.transport.abort()
        server.close()

    asyncio.run(main())
