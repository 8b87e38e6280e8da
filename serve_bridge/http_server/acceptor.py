"""The listening socket of a server, and the connections it yields.

Rule 1: a port has one listening socket and one queue (never SO_REUSEPORT, which resets the connections in the queue of
a process that ends). Processes that share the port have copies of this socket.
Rule 2: if all places are taken, and no connection can be evicted, new connections wait in the kernel's queue.
Rule 3: a connection takes a place at its accept, so the limit on connections includes TLS handshakes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from serve_bridge.http_server.places import Place, Places

__all__ = ["Acceptor", "accepted", "bracketed", "listen"]

BACKLOG: Final = 2048
"""Upper limit for the connections in the kernel's queue."""
AT_ONCE: Final = 64
"""Upper limit for the connections accepted in one turn of the loop, because open connections need turns, too."""

_PORT_TAKEN: Final = (
    "; take another port, http_options={'port': 0} for one that is free, or {'location': None} for no proxy"
)
_ANOTHER_HOST: Final = "; give another one, http_options={'host': ...} or --host"

accepted: Final[ContextVar[socket.socket]] = ContextVar("accepted")
"""The socket whose TLS handshake is under way, for callbacks of OpenSSL."""


class Acceptor:
    """Accepts connections, makes the TLS handshakes, and hands each connection to a protocol of its own.

    Attributes:
        opening: The connections without a protocol so far, with the loop's time of their accept.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[Place], asyncio.Protocol],
        *,
        places: Places,
        changed: Callable[[], None],
        logger: logging.Logger,
        tls: ssl.SSLContext | None,
        handshake_timeout_s: float,
        closing_timeout_s: float,
        at_once: int = AT_ONCE,
    ) -> None:
        """Take over *listener*.

        Args:
            listener: A non-blocking socket.
            protocol: Makes the protocol of a connection, which takes over its place.
            places: The places of all connections.
            changed: Called when a connection was opened, or when its handshake failed.
            logger: Gets warnings and errors.
            tls: Context for TLS connections; None: connections are not encrypted.
            handshake_timeout_s: Upper limit for the time of a TLS handshake, in seconds.
            closing_timeout_s: Upper limit for the time from the end of TLS to the end of TCP, in seconds.
            at_once: Upper limit for the connections accepted in one turn of the loop. 1 if other processes accept from
                the same queue: a process that accepted more would leave the others idle.
        """
        self.opening: dict[asyncio.Task[None], float] = {}
        self._listener: socket.socket | None = listener
        self._protocol = protocol
        self._places, self._changed = places, changed
        self._handshake_timeout_s = handshake_timeout_s
        self._at_once = at_once
        self._logger = logger
        self._options: dict[str, Any] = {}
        if tls is not None:
            self._options = {
                "ssl": tls,
                "ssl_handshake_timeout": handshake_timeout_s,
                "ssl_shutdown_timeout": closing_timeout_s,
            }
        self._accepting = self._timed = self._warned = False

    def resume(self) -> None:
        """Accept connections. If no place is free, or the listener is closed, do nothing."""
        if self._listener is None or self._accepting:
            return
        loop = asyncio.get_running_loop()
        wait_s = self._places.opens_in(loop.time())
        if not wait_s:
            self._accepting = True
            loop.add_reader(self._listener, self._accept)
        elif wait_s < math.inf and not self._timed:
            self._timed = True
            loop.call_later(wait_s, self._resume_in_time)

    def _resume_in_time(self) -> None:
        self._timed = False
        self.resume()

    def close(self) -> None:
        """Accept all connections in the kernel's queue, even above the limit, then stop listening.

        Otherwise the kernel would reset the connections in its queue.
        """
        listener, self._listener = self._listener, None
        if listener is not None:
            self._pause(listener)
            while self._open(listener, evicting=False):
                pass
            listener.close()

    def abort(self) -> None:
        """Stop listening, and drop the connections without a protocol."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._pause(listener)
            listener.close()
        for task in self.opening:
            task.cancel()

    def sweep(self, now: float) -> None:
        """Abort slow TLS handshakes. The fewer places are free, the shorter is their time."""
        limit = self._handshake_timeout_s * (1 - self._places.impatience)
        for task, began in list(self.opening.items()):
            if now - began > limit:
                task.cancel()

    def _pause(self, listener: socket.socket) -> None:
        if self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(listener)

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        now = asyncio.get_running_loop().time()
        for _ in range(self._at_once):
            if self._places.opens_in(now):
                self._pause(listener)
                self.resume()
                return
            if not self._open(listener):
                return

    def _open(self, listener: socket.socket, *, evicting: bool = True) -> bool:
        """Accept one connection. Return whether the queue may hold another one."""
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:  # the client left the queue
            return True
        except OSError as error:  # in most cases, no file descriptor is free
            self._pause(listener)
            if not self._warned:
                self._logger.warning("cannot accept connections for now: %s", error.strerror or error)
            self._warned = True
            return False
        self._warned = False
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        place = self._places.take(address[0], loop.time(), evicting=evicting)
        task = loop.create_task(self._hand_over(connection, place))
        self.opening[task] = loop.time()
        place.evict = task.cancel
        task.add_done_callback(lambda task: self._handed_over(task, connection, place))
        return True

    async def _hand_over(self, connection: socket.socket, place: Place) -> None:
        loop = asyncio.get_running_loop()
        accepted.set(connection)
        await loop.connect_accepted_socket(lambda: self._protocol(place), connection, **self._options)

    def _handed_over(self, task: asyncio.Task[None], connection: socket.socket, place: Place) -> None:
        del self.opening[task]
        if task.cancelled():
            place.give_back()
            connection.close()
        elif error := task.exception():
            place.give_back()
            connection.close()
            if not isinstance(error, OSError):  # OSError: the client left, does not speak TLS, or was too slow
                self._logger.error("a connection could not be opened", exc_info=error)
        self._changed()


def bracketed(host: str) -> str:
    """Return *host* for a URL, with an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


async def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first address of *host*, IPv4 before IPv6.

    Raises:
        ValueError: The host is unknown, or is not an address of this machine.
        OSError: The port is taken or needs privileges. The message names host and port.
    """
    where = f"{bracketed(host)}:{port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"cannot listen on {where}: unknown host{_ANOTHER_HOST}") from error
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise ValueError(
                f"cannot listen on {where}: the host is not an address of this machine{_ANOTHER_HOST}"
            ) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno == errno.EADDRINUSE:
            reason += _PORT_TAKEN
        raise OSError(error.errno, f"cannot listen on {where}: {reason}") from error
    return listener
