"""A WSGI application in a replica: each request runs on one of the replica's threads, from its head to its last byte.

Rule 1: how an application is called, and what it may do when, is `wsgiref`'s to say (PEP 3333); the ways in and out are
        ours.
Rule 2: what leaves a thread has been taken before the next piece is asked for; what comes in is read as it is needed.
Rule 3: a header of the client becomes a variable `HTTP_...` and nothing else; none of those becomes HTTP_PROXY.
Rule 4: CONTENT_LENGTH is the length of the body, whatever its framing. Many applications read nothing without it.
"""

from __future__ import annotations

import asyncio
import io
import logging
import shutil
from collections.abc import Coroutine
from contextlib import closing
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar
from wsgiref.handlers import BaseHandler
from wsgiref.headers import Headers
from wsgiref.util import FileWrapper

import msgspec

from serve_bridge.http.answers import fit_head, is_bodyless
from serve_bridge.http.headers import HOP_BY_HOP, HeaderList
from serve_bridge.http.paths import split_path
from serve_bridge.replica.executor import Executor
from serve_bridge.replica.http_requests import IncomingBody, end_failed, mount_point
from serve_bridge.replica.websockets import deny_websocket
from serve_bridge.user_code.method import Method
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpAnswer, HttpHead, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication

_Result = TypeVar("_Result")

_OWN_KEYS: Final = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_CONNECTIONS: Final = {name.decode() for name in HOP_BY_HOP} | {"trailers"}
"""Headers that an application must not set; the base class refuses the last one too."""
SPOOL_BYTES: Final = 1024 * 1024
"""A body of unknown length is held in memory up to this size, and in a temporary file above it."""
_logger = logging.getLogger("serve_bridge.replica")


class WsgiService:
    """Answers with one WSGI application."""

    def __init__(self, app: WSGIApplication, executor: Executor) -> None:
        self._app = app
        self._executor = executor
        self._method = Method.of("__call__", self._run, default=True)

    async def begin(self) -> None:
        """Do nothing: WSGI knows no start."""

    async def end(self, timeout_s: float) -> None:
        """Do nothing: WSGI knows no end."""

    def close(self) -> None:
        """Do nothing: the threads are the executor's."""

    async def answer_http(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let the application answer a request."""
        exchange = _Exchange(head, stream)
        try:
            await self._executor.run(self._method, (exchange,), {})
        except BaseException as error:  # what an application makes of a client that has left is no failure
            end_failed(stream, head, error, left=exchange.left)

    async def answer_websocket(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Deny it: WSGI knows no WebSocket."""
        deny_websocket(head, stream)

    def _run(self, exchange: _Exchange) -> None:
        with closing(exchange):
            exchange.receive()
            _Handler(exchange).run(self._app)


class _Exchange:
    """One request's way in and out, for the thread that answers it.

    Attributes:
        left: Whether the client left while its body was being read.
        length: Bytes of its body.
    """

    def __init__(self, head: HttpHead, stream: ReplicaStream) -> None:
        """Take the request on the replica's loop."""
        self.head = head
        self.left = False
        self.length = head.body_length
        self._body = IncomingBody(stream) if stream.has_body else None
        self._spooled: IO[bytes] | None = None
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._has_no_body = head.method == "HEAD"
        self._answer_length: int | None = None
        self._sent = 0
        self._started = self._ended = False
        self._answer: HttpAnswer | None = None

    def receive(self) -> None:
        """Receive a body of unknown length, since the application must be told its length.

        Raises:
            ConnectionResetError: The client has left.
        """
        if self.length is None and self._body is not None:
            self._spooled = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  # `close` closes it
            shutil.copyfileobj(self._received(self._body), self._spooled, INLINE_BODY_BYTES)
            self.length = self._spooled.tell()
            self._spooled.seek(0)

    def close(self) -> None:
        """Close the temporary file, however the request ended."""
        if self._spooled is not None:
            self._spooled.close()

    def wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return what *work* returns on the loop.

        Raises:
            Lost: The client has left.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def input(self) -> IO[bytes]:
        """Return the request's body, as a file."""
        if self._spooled is not None:
            return self._spooled
        return io.BytesIO(self.head.body) if self._body is None else self._received(self._body)

    def _received(self, body: IncomingBody) -> IO[bytes]:
        return io.BufferedReader(_Input(self, body), INLINE_BODY_BYTES)

    def begin(self, status: int, headers: HeaderList) -> None:
        """Take the answer's head; it leaves with what follows.

        Raises:
            SerializationError: It cannot be sent.
        """
        status, headers = fit_head(status, headers)
        self._answer = HttpAnswer(status, headers, b"")
        self._has_no_body = self._has_no_body or is_bodyless(status)
        self._answer_length = next((int(value) for name, value in headers if name == b"content-length"), None)

    def send(self, data: bytes) -> None:
        """Send a piece of the body, as soon as the client takes it.

        Raises:
            Lost: Nobody wants it.
        """
        if self._ended and (self._has_no_body or self._answer_length is None):
            raise Lost("unknown", "the answer has no body")
        if self._answer_length is not None and not self._has_no_body and self._sent + len(data) > self._answer_length:
            _logger.warning("request %s: what is longer than its Content-Length was cut", self.head.request_id)
            data = data[: self._answer_length - self._sent]
        if self._ended:
            return
        self._sent += len(data)
        # It ends with what was declared: the iterable may come to its own end much later.
        self._put(data, end=self._sent == self._answer_length)

    def end(self) -> None:
        """Nothing follows.

        Raises:
            RuntimeError: The body is shorter than was declared.
        """
        if self._ended:
            return
        if self._answer_length is not None and not self._has_no_body and self._sent < self._answer_length:
            raise RuntimeError(f"the answer has {self._sent} bytes where Content-Length says {self._answer_length}")
        self._put(b"", end=True)

    def _put(self, data: bytes, *, end: bool) -> None:
        assert self._answer is not None
        if self._has_no_body:
            data, end = b"", True
        self._ended = end
        if not self._started and end and len(data) <= INLINE_BODY_BYTES:
            self._started = True
            whole = encode_head(HttpAnswer(self._answer.status, self._answer.headers, data))
            # Nothing to wait for: the application may go on with what it has left to do.
            self._loop.call_soon_threadsafe(lambda: self._stream.respond(whole, end=True))
            return
        self.wait(self._send(data, end=end))

    async def _send(self, data: bytes, *, end: bool) -> None:
        if not self._started:
            assert self._answer is not None
            self._started = True
            head = msgspec.structs.replace(self._answer, complete=end)
            self._stream.respond(encode_head(head), end=False)
        await self._stream.send_segments([data] if data else [], end=end)


class _Input(io.RawIOBase):
    """A body that comes in pieces, which the loop hands over as they are read."""

    def __init__(self, exchange: _Exchange, body: IncomingBody) -> None:
        self._exchange = exchange
        self._body = body
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and not self._ended:
            try:
                chunk = self._exchange.wait(self._body.next())
            except Lost as error:
                self._exchange.left = True
                raise ConnectionResetError("the client left during its upload") from error
            self._ended = chunk is None
            self._rest = memoryview(chunk or b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _File(FileWrapper):
    """What `wsgi.file_wrapper` is: a file in pieces that are worth a way through the loop."""

    def __init__(self, filelike: Any, blksize: int = 0) -> None:
        super().__init__(filelike, max(blksize, INLINE_BODY_BYTES))


class _Errors(io.TextIOBase):
    """What `wsgi.errors` is: each line goes to the log.

    The level is WARNING: a framework writes there what it has reported as an error already.
    """

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.strip():
            _logger.warning("%s", text.rstrip())
        return len(text)


_errors: Final = _Errors()


class _Handler(BaseHandler):
    """Calls an application for one request."""

    os_environ: dict[str, str] = {}  # noqa: RUF012  # as in the base class; the process's own variables are nobody's request
    wsgi_file_wrapper = _File
    environ: dict[str, Any]
    status: str | None
    headers: Headers | None
    bytes_sent: int

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def run(self, application: WSGIApplication) -> None:
        """Answer the request by *application*; what it raises is raised, whatever it is."""
        self.setup_environ()
        self.environ["wsgi.input_terminated"] = True
        self.result = application(self.environ, self.start_response)
        self.finish_response()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None) -> Any:
        """Take the answer's head; what concerns one connection only is not the application's."""
        plain = [(_plain(name), _plain(value)) for name, value in headers]
        kept = [pair for pair in plain if pair[0].lower() not in _CONNECTIONS]
        return super().start_response(_plain(status), kept, exc_info)

    def write(self, data: bytes) -> None:
        """Send *data*; nothing leaves with an empty piece, so that the application may still change its mind."""
        if isinstance(data, bytes):
            data = bytes.__bytes__(data)  # the base class takes no subclass
            if not data:
                return
        super().write(data)

    def finish_content(self) -> None:
        """End the answer."""
        if self.headers is None:
            raise RuntimeError("the WSGI application returned without calling start_response")
        if not self.headers_sent:
            self.send_headers()
        self._exchange.end()

    def cleanup_headers(self) -> None:
        """Say how long the body is, if it is known; an answer to HEAD knows it from the application only."""
        if self.bytes_sent:
            super().cleanup_headers()

    def send_headers(self) -> None:
        """Hand over the answer's head."""
        self.cleanup_headers()
        assert self.headers is not None
        assert self.status is not None
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        self._exchange.begin(int(self.status[:3]), fields)
        self.headers_sent = True

    def add_cgi_vars(self) -> None:
        """Add what describes the request."""
        self.environ.update(environ_of(self._exchange.head))
        if self._exchange.length or "CONTENT_LENGTH" in self.environ:
            self.environ["CONTENT_LENGTH"] = str(self._exchange.length)

    def get_stdin(self) -> Any:
        """Return the request's body."""
        return self._exchange.input()

    def get_stderr(self) -> Any:
        """Return where the application may write to the log."""
        return _errors

    def get_scheme(self) -> str:
        """Return "http" or "https"."""
        return self._exchange.head.scheme or "http"

    def _write(self, data: bytes) -> None:
        self._exchange.send(data)

    def _flush(self) -> None:
        pass


def _plain(text: str) -> str:
    """Return *text* as a plain str; the base class takes no subclass, such as a member of a StrEnum, or Markup."""
    return str.__str__(text) if isinstance(text, str) else text


def environ_of(head: HttpHead) -> dict[str, Any]:
    """Return the variables that describe the request; those of WSGI itself are not among them."""
    above, below = split_path(head.path, head.raw_path, mount_point(head))
    server, client = head.server or ("localhost", 80), head.client
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": above.decode("latin-1"),  # PEP 3333: each byte is one character
        "PATH_INFO": below.decode("latin-1"),
        "QUERY_STRING": head.query.decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{head.http_version}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 0),
        "serve_bridge.context": head.context or {},
    }
    if head.raw_path:
        query = f"?{environ['QUERY_STRING']}" if head.query else ""
        environ["REQUEST_URI"] = head.raw_path.decode("latin-1") + query
    if client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for name, value in head.headers:
        if b"_" in name or name == b"proxy":  # "Remote_User" and "Remote-User" would be one variable
            continue
        key = _OWN_KEYS.get(name) or "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if name == b'cookie' else ','}{text}"
        environ[key] = text
    return environ
