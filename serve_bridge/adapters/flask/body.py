"""The body of a Flask request that is to be forwarded, whatever has become of it before its view is called.

Rule 1: what nobody has read is streamed, and `MAX_CONTENT_LENGTH` holds.
Rule 2: what a hook has read is forwarded too: bytes as they came, a parsed form encoded again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

from flask import Request
from starlette.types import Scope
from werkzeug.wsgi import LimitedStream

from serve_bridge.adapters.blocking import Readable

_CHUNK_BYTES: Final = 64 * 1024
_FORM: Final = "application/x-www-form-urlencoded"
_CONSUMED = (
    "the body of this request was read before serve_bridge could forward it; read it in a hook with "
    "request.get_data() or request.get_json(), which keep it, or as request.form and request.files"
)


def body_of(request: Request, scope: Scope) -> bytes | Readable:
    """Return *request*'s body; the headers in *scope* are changed where it is no longer the one that came.

    Raises:
        RuntimeError: It was read, and is not kept.
        RequestEntityTooLarge: It is longer than the app allows.
    """
    # Looked up where werkzeug keeps them: its public accessors would read the stream.
    found = vars(request)
    if not found.keys() & {"stream", "_cached_data"}:
        return request.stream
    cached: bytes | None = found.get("_cached_data")
    if cached:
        return cached
    if "form" in found and (request.mimetype == _FORM or "boundary" in request.mimetype_params):
        return _encoded(request, scope)
    return cached if cached is not None else _Touched(request)


class _Touched:
    """The stream of a request that somebody has opened already, and may have read."""

    def __init__(self, request: Request) -> None:
        self._stream = request.stream
        self._was_read = isinstance(self._stream, LimitedStream) and self._stream.tell() > 0
        self._awaits = bool(request.content_length)

    def read(self, size: int, /) -> bytes:
        piece = b"" if self._was_read else self._stream.read(size)
        if self._was_read or (self._awaits and not piece):
            raise RuntimeError(_CONSUMED)
        self._awaits = False  # what has begun may end
        return piece


class _Chunks:
    """Chunks as a file; they are made as they are read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        piece = self._rest or next(self._chunks, b"")
        self._rest = piece[size:]
        return piece[:size]


def _encoded(request: Request, scope: Scope) -> bytes | Readable:
    """Return *request*'s parsed form, encoded."""
    if request.mimetype == _FORM:
        body = urlencode(list(request.form.items(multi=True))).encode()
        _replace(scope, {b"content-length": b"%d" % len(body)})
        return body
    # A boundary of our own: what was parsed by another may hold anything.
    boundary = secrets.token_hex(16)
    content_type = f"multipart/form-data; boundary={boundary}".encode()
    _replace(scope, {b"content-type": content_type, b"transfer-encoding": b"chunked"})
    return _Chunks(_multipart(request, boundary.encode()))


def _replace(scope: Scope, new: dict[bytes, bytes]) -> None:
    old = {b"content-length", *new}
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in old] + list(new.items())


def _multipart(request: Request, boundary: bytes) -> Iterator[bytes]:
    for name, value in request.form.items(multi=True):
        yield _head(boundary, name) + value.encode() + b"\r\n"
    for name, file in request.files.items(multi=True):
        yield _head(boundary, name, file)
        file.stream.seek(0)  # a hook may have looked into it
        while chunk := file.stream.read(_CHUNK_BYTES):
            yield chunk
        yield b"\r\n"
    yield b"--" + boundary + b"--\r\n"


def _head(boundary: bytes, name: str, file: Any = None) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{_quoted(name)}"']
    if file is not None:
        lines[0] += f'; filename="{_quoted(file.filename or "")}"'
        if file.content_type:
            lines.append(f"Content-Type: {file.content_type}")
    return b"--" + boundary + b"\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n"


def _quoted(text: str) -> str:
    # As browsers do; a name must not end its header line, and become another part.
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
