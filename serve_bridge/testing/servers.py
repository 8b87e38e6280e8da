"""Web servers in the process of the test, each with a real socket on a free port of the loopback interface.

Rule 1: after the context of a server, its port is free and its thread has ended.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer
from wsgiref.validate import validator

import uvicorn

HOST: Final = "127.0.0.1"
START_S: Final = 30.0
END_S: Final = 10.0
LINGER_S: Final = 1.0


class _ASGIServer(uvicorn.Server):
    """A server with an event for its start."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.begun.set()


@contextlib.contextmanager
def serve_asgi(application: Any, *, root_path: str = "") -> Iterator[str]:
    """Serve an ASGI application with uvicorn, and run its lifespan; yield the base URL.

    Args:
        application: The application.
        root_path: The prefix of the application, as a reverse proxy would mount it.

    Raises:
        RuntimeError: The lifespan did not start.
    """
    listener = socket.create_server((HOST, 0))
    config = uvicorn.Config(
        application,
        root_path=root_path,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # by default uvicorn trusts such headers of all clients on this machine
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
    )
    server = _ASGIServer(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="asgi-server", daemon=True)
    thread.start()
    try:
        if not server.begun.wait(START_S if thread.is_alive() else 0):
            raise RuntimeError("the lifespan of the application did not start; its log says why")
        yield f"http://{HOST}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(END_S)
        listener.close()


class _WSGIServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a failed test may leave a waiting thread
    request_queue_size = 64

    def shutdown_request(self, request: Any) -> None:
        # A close with unread bytes would reset the connection, and the client could lose an answer sent before.
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(LINGER_S)
            while request.recv(65536):
                pass
        self.close_request(request)


class _WSGIAnswer(ServerHandler):
    environ: dict[str, Any]
    headers_sent: bool
    request_handler: WSGIRequestHandler

    def finish_content(self) -> None:
        if self.environ["REQUEST_METHOD"] == "HEAD" and not self.headers_sent:
            self.send_headers()  # the base class would send a Content-Length of 0
        super().finish_content()


class _WSGIHandler(WSGIRequestHandler):
    def handle(self) -> None:
        """Answer one request."""
        self.raw_requestline = self.rfile.readline(65537)
        if self.parse_request():
            body: Any = self.rfile
            to: Any = self.wfile
            server: Any = self.server
            answer = _WSGIAnswer(body, to, self.get_stderr(), self.get_environ(), multithread=False)
            answer.request_handler = self
            answer.run(server.get_app())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serve_wsgi(application: Callable[..., Any], *, root_path: str = "") -> Iterator[str]:
    """Serve a WSGI application with wsgiref and `wsgiref.validate`, a thread for each request; yield the base URL.

    The server speaks HTTP/1.0, and does not accept chunked bodies.
    """
    server = _WSGIServer((HOST, 0), _WSGIHandler)
    server.base_environ["SCRIPT_NAME"] = root_path
    server.set_app(validator(application))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="wsgi-server", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(END_S)
        server.server_close()
