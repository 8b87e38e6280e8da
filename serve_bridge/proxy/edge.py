"""The HTTP server of the proxy: a listener, its connections, and how they end.

Rule 1: runs on the loop it is started on, in any thread; it installs no signal handler and ends no process.
Rule 2: the port is this process's alone (never SO_REUSEPORT); a second server on it fails to start.
Rule 3: the listening socket outlives pauses; at the connection limit the kernel's queue waits.
Rule 4: draining serves what the kernel has accepted before the listener closes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, cast

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from serve_bridge.config import HTTPOptions
from serve_bridge.proxy.http_protocol import EdgeProtocol, EdgeState
from serve_bridge.proxy.websocket_protocol import EdgeWebSocket

__all__ = ["EdgeServer"]

BACKLOG: Final = 2048
SPARE_DESCRIPTORS: Final = 32
"""File descriptors kept back from connections, for replicas' sockets and files of the process."""

DRAIN_TICK_S: Final = 0.02
IDLE_GRACE_S: Final = 0.25
"""While draining, how long an idle connection may still send a request that crosses with the close."""

CANCEL_GRACE_S: Final = 5.0
"""How long `stop` waits for cancelled requests to end."""


class EdgeServer:
    """Serves an ASGI application over HTTP/1.1 and WebSocket.

    Args:
        app: The application. It gets no lifespan events.
        options: Where to listen, limits and deadlines.
        cancels: Whether the task of a request is cancelled when its client leaves, which tells an application
            that waits for something else; without, it is only told when it asks.
    """

    def __init__(self, app: ASGIApp, options: HTTPOptions, *, cancels: bool = False) -> None:
        self._options = options
        self._config = Config(
            app if not options.trusted_proxies else trust_proxies(app, options),
            interface="asgi3",
            lifespan="off",
            ws=EdgeWebSocket,
            ws_max_size=options.max_message_bytes,
            log_config=None,
            proxy_headers=False,
            server_header=False,
        )
        self._state = _Connections(options, self._pause, self._resume)
        self._state.cancels = cancels
        self._listener: socket.socket | None = None
        self._accepting: asyncio.AbstractServer | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end; "" before `start`."""
        return self._url

    async def start(self) -> str:
        """Listen and serve; returns the base URL once connections are accepted.

        Raises:
            ValueError: The host is unknown or no address of this machine.
            OSError: The port is taken or needs privileges; the message names host and port.
        """
        host, port = self._options.host, self._options.port
        if host is None:
            raise ValueError("options without a host have no server")
        if self._listener is not None:
            raise RuntimeError(f"already listening on {self._url}")
        self._listener = await listen(host, port)
        try:
            self._config.load()
            self._state.set_date()
            await self._accept()
        except BaseException:
            self._listener.close()
            raise
        self._url = f"http://{bracketed(host)}:{self._listener.getsockname()[1]}"
        options = self._options
        deadlines = (options.header_timeout_s, options.body_timeout_s, options.write_timeout_s)
        tick = min(1.0, max(0.01, min(*deadlines, options.keep_alive_timeout_s) / 4))
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_every(tick))
        return self._url

    async def drain(self, grace_s: float, *, idle_grace_s: float = IDLE_GRACE_S) -> None:
        """Stop listening, answer what has arrived, close idle connections; at most *grace_s* seconds.

        An idle connection may still send a request, which crosses with the close, for *idle_grace_s*. Returns when
        all connections are closed and all requests answered, or the grace is over.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        self._state.draining = True
        await self._close_listener()
        idle_until = loop.time() + min(idle_grace_s, grace_s / 2)
        for connection in list(self._state.connections):
            if isinstance(connection, EdgeProtocol):
                connection.drain(idle_until)
            else:
                connection.shutdown()  # a WebSocket: 1012, service restart
        if self._sweeper is not None:  # the last moments are counted finer than the deadlines of a day
            self._sweeper.cancel()
            self._sweeper = loop.create_task(self._sweep_every(DRAIN_TICK_S))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while self._state.connections or self._state.tasks:
                    self._state.changed.clear()
                    await self._state.changed.wait()

    async def stop(self) -> None:
        """Close everything at once; requests still running are cancelled. Idempotent."""
        self._state.draining = True
        await self._close_listener()
        for connection in list(self._state.connections):
            connection.transport.abort()
        tasks: set[asyncio.Task[None]] = set(self._state.tasks)
        if self._sweeper is not None:
            tasks.add(self._sweeper)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_GRACE_S)

    # Accepting

    def _protocol(self) -> EdgeProtocol:
        return EdgeProtocol(self._config, self._state, asyncio.get_running_loop())

    async def _accept(self) -> None:
        assert self._listener is not None
        # A duplicate, because closing the server closes the socket it was given.
        self._accepting = await asyncio.get_running_loop().create_server(
            self._protocol, sock=self._listener.dup(), backlog=BACKLOG
        )

    def _pause(self) -> None:
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None

    def _resume(self) -> None:
        if self._listener is not None and self._accepting is None and self._resuming is None:
            self._resuming = asyncio.get_running_loop().create_task(self._accept())
            self._resuming.add_done_callback(self._resumed)

    def _resumed(self, task: asyncio.Task[None]) -> None:
        self._resuming = None
        if self._listener is None:
            self._pause()
        elif error := task.exception():
            self._state.logger.warning("cannot accept connections yet: %s", error)
            self._state.paused = True  # the next sweep tries again

    async def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        self._pause()
        if listener is None:
            return
        loop = asyncio.get_running_loop()
        while True:  # closing a listener resets what the kernel accepted for it
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)
        listener.close()

    # Deadlines

    async def _sweep_every(self, tick: float) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(tick)
            now = loop.time()
            self._sweep(now, now - last)
            last = now

    def _sweep(self, now: float, elapsed: float) -> None:
        self._state.set_date()
        for connection in list(self._state.connections):
            if not isinstance(connection, EdgeProtocol | EdgeWebSocket):
                continue
            try:
                connection.sweep(now, elapsed)
            except Exception:  # one connection must not stop the deadlines of the others
                self._state.logger.exception("a connection failed in the sweep")
                connection.transport.abort()
        self._state.connection_closed()  # WebSockets close without telling


class _Connections(EdgeState):
    """The connections of a server; it stops accepting at their limit.

    Attributes:
        paused: Nothing is accepted until a connection closes.
        changed: Set when a connection has closed, and at least once in each sweep.
    """

    def __init__(self, options: HTTPOptions, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        super().__init__(options)
        self.paused = False
        self.changed = asyncio.Event()
        self._pause, self._resume = pause, resume
        self._most = most_connections(options.max_connections)

    def set_date(self) -> None:
        """Set the Date header of the answers that follow."""
        date = formatdate(time.time(), usegmt=True).encode()
        self.date_line = b"date: %b\r\n" % date
        self.default_headers = [(b"date", date)]  # uvicorn's WebSockets read this one

    def connection_opened(self) -> None:
        if len(self.connections) >= self._most and not self.paused:
            self.paused = True
            self._pause()

    def connection_closed(self) -> None:
        self.changed.set()
        if self.paused and len(self.connections) < self._most:
            self.paused = False
            self._resume()


def most_connections(wanted: int) -> int:
    """Return how many connections the file descriptors left to this process allow, at most *wanted*."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:
        used = 0
    return max(1, min(wanted, allowed - used - SPARE_DESCRIPTORS))


def bracketed(host: str) -> str:
    """Return *host* as a URL needs it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


async def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first address of *host*, IPv4 before IPv6.

    Raises:
        ValueError: The host is unknown or no address of this machine.
        OSError: The port is taken or needs privileges; the message names host and port.
    """
    where = f"{bracketed(host)}:{port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"cannot listen on {where}: unknown host") from error
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
            raise ValueError(f"cannot listen on {where}: no address of this machine") from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {where}: {reason}") from error
    return listener


def trust_proxies(app: ASGIApp, options: HTTPOptions) -> ASGIApp:
    """Return *app* with client and scheme taken from the forwarding headers of the trusted proxies."""
    return cast(ASGIApp, ProxyHeadersMiddleware(cast(Any, app), trusted_hosts=list(options.trusted_proxies)))
