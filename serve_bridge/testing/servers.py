"""Web servers inside the test's own process, each over a real socket on a free port of the loopback interface.

Rule 1: when a context is left, the port is free again and the server's thread has ended.
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
    """One that says when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.begun.set()


@contextlib.contextmanager
def serve_asgi(application: Any, *, root_path: str = "") -> Iterator[str]:
    """Serve an ASGI application by uvicorn, its lifespan included; yield the base URL.

    Args:
        application: What is served.
        root_path: The prefix below which somebody in front of the server has mounted it.

    Raises:
        RuntimeError: Its lifespan did not begin.
    """
    listener = socket.create_server((HOST, 0))
    config = uvicorn.Config(
        application,
        root_path=root_path,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # by default uvicorn takes the word of any client on this machine
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
    )
    server = _ASGIServer(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="asgi-server", daemon=True)
    thread.start()
    try:
        if not server.begun.wait(START_S if thread.is_alive() else 0):
            raise RuntimeError("the application's lifespan did not begin; its log says why")
        yield f"http://{HOST}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(END_S)
        listener.close()


class _WSGIServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a test that fails may leave one that waits
    request_queue_size = 64

    def shutdown_request(self, request: Any) -> None:
        # Closing with bytes unread would reset the connection under an answer that came before them.
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
            self.send_headers()  # the base class would say that the answer has the length 0
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
        """Say nothing."""


@contextlib.contextmanager
def serve_wsgi(application: Callable[..., Any], *, root_path: str = "") -> Iterator[str]:
    """Serve a WSGI application by wsgiref, a thread a request, under `wsgiref.validate`; yield the base URL.

    The server speaks HTTP/1.0 and takes no chunked body.
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
