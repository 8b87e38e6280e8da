"""An edge server in a thread, an application that shows what reached it, and h11 as the strict client of both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h11
import uvloop
from starlette.types import Receive, Scope, Send

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.buffers import Buffers
from serve_bridge.http_server.server import HttpServer
from serve_bridge.wire.streams import ANSWER_WINDOW

# The application


@dataclass
class Application:
    """Answers by path and remembers what it was asked.

    Attributes:
        paths: Paths of the calls, in order.
        left: Set when a call has been told that its client left.
        started: Set when ``/wait`` has been called.
        go: Lets ``/wait`` answer.
    """

    paths: list[str] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by path."""
        if scope["type"] == "websocket":
            await self.echo(receive, send)
            return
        self.paths.append(scope["path"])
        answer: Callable[[Scope, Receive, Send], Any] | None = getattr(self, scope["path"][1:], None)
        if answer is not None:
            await answer(scope, receive, send)
        elif scope["path"][1:].isdigit():
            await reply(send, b"", status=int(scope["path"][1:]), headers=[])
        else:
            await reply(send, shown(scope))

    async def read(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Echo the body."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            body += message["body"]
            if not message.get("more_body"):
                break
        await reply(send, body)

    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take what comes first of the body, and the rest when told to."""
        message = await receive()
        await self.go.wait()
        size = len(message.get("body", b""))
        while message.get("more_body"):
            message = await receive()
            size += len(message.get("body", b""))
        await reply(send, b"%d" % size)

    async def wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer when told to, or notice that the client left."""
        self.started.set()
        await receive()
        gone = asyncio.ensure_future(receive())
        going = asyncio.ensure_future(self.go.wait())
        await asyncio.wait({gone, going}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            going.cancel()
            self.left.set()
        else:
            gone.cancel()
            await reply(send, b"waited")

    async def endless(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the client leaves."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.started.set()
        while (await asyncio.wait({asyncio.ensure_future(receive())}, timeout=0))[1]:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        self.left.set()

    async def long(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream more than sockets take, and notice that the client left."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(256):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.left.set()

    async def big(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once with more than sockets take."""
        await reply(send, bytes(16 * 2**20))

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in parts, without a length."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def fails(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise what would end a loop."""
        raise SystemExit("secret")

    async def fails_late(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise when a part of the answer is out."""
        await self.stream_start(send)
        raise RuntimeError("secret")

    async def stream_start(self, send: Send) -> None:
        """Begin an answer."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0)

    async def with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the status of the query, and a body."""
        status = int(scope["query_string"] or b"200")
        await reply(send, b"no body here", status=status, headers=[])

    async def bad_header(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Try to split the answer."""
        await reply(send, b"", headers=[(b"x-a", b"b\r\nset-cookie: c=d")])

    async def bad_type(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send str instead of bytes."""
        await reply(send, b"", headers=[("x-a", "b")])

    async def two_lengths(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Contradict oneself."""
        await reply(send, b"ab", headers=[(b"content-length", b"2"), (b"content-length", b"3")])

    async def longer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send more than declared."""
        await reply(send, b"abcdef", headers=[(b"content-length", b"2")])

    async def hops(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers that are not the application's."""
        hops = [
            (b"keep-alive", b"timeout=9"),
            (b"transfer-encoding", b"gzip"),
            (b"upgrade", b"x"),
            (b"x-a", b"1"),
        ]
        await reply(send, b"ok", headers=[*hops, (b"x-a", b"2")])

    async def echo(self, receive: Receive, send: Send) -> None:
        """Echo WebSocket messages."""
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
        finally:
            self.left.set()


async def reply(send: Send, body: bytes, *, status: Any = 200, headers: list[Any] | None = None) -> None:
    """Send a whole answer."""
    if headers is None:
        headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def shown(scope: Scope) -> bytes:
    """What the application was given, as JSON."""
    kept = {key: scope[key] for key in ("method", "path", "scheme", "client", "http_version")}
    kept["query"] = scope["query_string"].decode()
    kept["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
    return json.dumps(kept).encode()


# The server, in a thread with its own loop


@dataclass
class Running:
    """A server in a thread."""

    app: Application
    server: HttpServer
    loop: asyncio.AbstractEventLoop
    address: tuple[str, int]
    tls: ssl.SSLContext | None = None

    def call(self, awaitable: Any) -> Any:
        """Run something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(20)

    def client(self) -> socket.socket:
        """Connect, over TLS if the server's certificate is known."""
        client = socket.create_connection(self.address)
        client.settimeout(30)
        return client if self.tls is None else self.tls.wrap_socket(client, server_hostname="localhost")

    def exchange(self, data: bytes) -> bytes:
        """Send bytes and read until the server closes."""
        with self.client() as client:
            with contextlib.suppress(ConnectionError):  # it may refuse before it has read everything
                client.sendall(data)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            received += piece
    return received


@contextlib.contextmanager
def running(*, tls: ssl.SSLContext | None = None, buffers: Buffers | None = None, **options: Any) -> Iterator[Running]:
    """Run a server in a thread; with *tls* its clients use that, and it holds what it holds in *buffers*."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    app = Application()
    given = HTTPOptions(**{"port": 0, "allowed_hosts": ["*"], **options})
    server = HttpServer(app, given, buffers=buffers, answer_window_bytes=ANSWER_WINDOW)
    try:
        url = asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
        yield Running(app, server, loop, ("127.0.0.1", int(url.rpartition(":")[2])), tls)
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _end(server: HttpServer) -> None:
    """Stop *server*, and end the requests that it has left: a collected loop would complain in another test."""
    await server.stop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def wait_until_refused(edge: Running) -> None:
    """Wait until the server has stopped listening."""
    # A connection that crosses with the close may be reset rather than refused.
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        while True:
            socket.create_connection(edge.address).close()


# Its answers


@dataclass
class Answer:
    """One answer, as h11 read it."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def answers(received: bytes, *methods: bytes) -> list[Answer]:
    """Parse all answers with h11; *methods* of the requests, GET for those not named."""
    found: list[Answer] = []
    while received:
        method = methods[len(found)] if len(found) < len(methods) else b"GET"
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        client.receive_data(b"")
        status, headers, body = 0, {}, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status, headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            assert not isinstance(event, h11.ConnectionClosed | type(h11.NEED_DATA)), received[:500]
        found.append(Answer(status, headers, body))
        received = client.trailing_data[0]
    return found


def statuses(received: bytes, *methods: bytes) -> list[int]:
    """The statuses of all answers."""
    return [answer.status for answer in answers(received, *methods)]
