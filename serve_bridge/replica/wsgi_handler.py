"""A call of a WSGI application by the rules of PEP 3333.

Rule 1: CONTENT_LENGTH is the length of the body, however it was framed. Many applications read no body without it.
"""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any, Final
from wsgiref.handlers import BaseHandler
from wsgiref.headers import Headers
from wsgiref.util import FileWrapper

from serve_bridge.http.headers import HOP_BY_HOP
from serve_bridge.replica.wsgi_environ import environ_of
from serve_bridge.replica.wsgi_request import WsgiRequest
from serve_bridge.wire.heads import INLINE_BODY_BYTES

_logger = logging.getLogger("serve_bridge.replica")

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication


_CONNECTIONS: Final = {name.decode() for name in HOP_BY_HOP} | {"trailers"}
"""Headers for one connection only. The replica drops them; `wsgiref` would raise an error, for "trailers" too."""


class _File(FileWrapper):
    """The `wsgi.file_wrapper`: a file in pieces, each large enough to be worth a trip through the loop."""

    def __init__(self, filelike: Any, blksize: int = 0) -> None:
        super().__init__(filelike, max(blksize, INLINE_BODY_BYTES))


class _Errors(io.TextIOBase):
    """The `wsgi.errors`: each line goes to the log.

    The level is WARNING, because a framework writes errors there which it has already reported.
    """

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.strip():
            _logger.warning("%s", text.rstrip())
        return len(text)


_errors: Final = _Errors()


class WsgiHandler(BaseHandler):
    """Calls an application for one request."""

    os_environ: dict[str, str] = {}  # noqa: RUF012  # not the variables of this process: they do not belong to a request
    wsgi_file_wrapper = _File
    environ: dict[str, Any]
    status: str | None
    headers: Headers | None
    bytes_sent: int

    def __init__(self, request: WsgiRequest) -> None:
        self._request = request

    def run(self, application: WSGIApplication) -> None:
        """Answer the request by *application*. Its exceptions are raised, not turned into an answer."""
        self.setup_environ()
        self.environ["wsgi.input_terminated"] = True
        self.result = application(self.environ, self.start_response)
        self.finish_response()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None) -> Any:
        """Take the answer's head, without headers for one connection only."""
        plain = [(_plain(name), _plain(value)) for name, value in headers]
        kept = [pair for pair in plain if pair[0].lower() not in _CONNECTIONS]
        return super().start_response(_plain(status), kept, exc_info)

    def write(self, data: bytes) -> None:
        """Send *data*. An empty piece does not send the head, so the application may still replace it by an error."""
        if isinstance(data, bytes):
            data = bytes.__bytes__(data)  # the base class accepts no subclass
            if not data:
                return
        super().write(data)

    def finish_content(self) -> None:
        """End the answer."""
        if self.headers is None:
            raise RuntimeError("the WSGI application returned without calling start_response")
        if not self.headers_sent:
            self.send_headers()
        self._request.end()

    def cleanup_headers(self) -> None:
        """Add the length of the body, if it is known. For HEAD, only the application knows it."""
        if self.bytes_sent:
            super().cleanup_headers()

    def send_headers(self) -> None:
        """Pass on the answer's head."""
        self.cleanup_headers()
        assert self.headers is not None
        assert self.status is not None
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        self._request.begin(int(self.status[:3]), fields)
        self.headers_sent = True

    def add_cgi_vars(self) -> None:
        """Add the variables of the request."""
        self.environ.update(environ_of(self._request.head))
        if self._request.length or "CONTENT_LENGTH" in self.environ:
            self.environ["CONTENT_LENGTH"] = str(self._request.length)

    def get_stdin(self) -> Any:
        """Return the request's body."""
        return self._request.input()

    def get_stderr(self) -> Any:
        """Return the file through which the application writes to the log."""
        return _errors

    def get_scheme(self) -> str:
        """Return "http" or "https"."""
        return self._request.head.scheme or "http"

    def _write(self, data: bytes) -> None:
        self._request.send(data)

    def _flush(self) -> None:
        pass


def _plain(text: str) -> str:
    """Return *text* as a plain str: the base class accepts no subclass, such as a member of a StrEnum, or Markup."""
    return str.__str__(text) if isinstance(text, str) else text
