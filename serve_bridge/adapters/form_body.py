"""A form that the framework has parsed, as a request's body again.

Rule 1: the boundary stays the request's own: no value can hold it, or it would have ended there when it was parsed.
Rule 2: files are read from where the parser has put them, piece by piece.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from email.message import Message as Header
from typing import Final, TypeAlias
from urllib.parse import urlencode

from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from serve_bridge.messages import HeaderList

PIECE_BYTES: Final = 64 * 1024

_Segment: TypeAlias = bytes | UploadFile
_QUOTED: Final = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


class FormBody:
    """The body of a request whose form was parsed; called, it is its `receive`.

    Attributes:
        headers: The request's, with the length of this body.
    """

    def __init__(self, form: FormData, headers: HeaderList) -> None:
        """Take a form and the headers of the request that it came with."""
        header = Header()
        header["content-type"] = next((v.decode("latin-1") for n, v in headers if n == b"content-type"), "")
        charset = header.get_content_charset("utf-8")
        boundary = header.get_boundary()
        if boundary is not None:
            self._segments = list(_multipart(form, boundary.encode("latin-1"), charset))
        else:
            texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
            self._segments = [urlencode(texts, encoding=charset).encode()]
        length = sum(len(each) if isinstance(each, bytes) else each.size or 0 for each in self._segments)
        kept = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
        self.headers: HeaderList = [*kept, (b"content-length", b"%d" % length)]
        self._left = length
        self._pieces = self._read()

    async def __call__(self) -> Message:
        """Return the next piece, as ASGI has it."""
        piece = await anext(self._pieces, b"")
        self._left -= len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(piece) and self._left > 0}

    async def _read(self) -> AsyncIterator[bytes]:
        """Iterate the body in pieces that are neither tiny nor large."""
        gathered = bytearray()
        for segment in self._segments:
            async for piece in _pieces(segment):
                gathered += piece
                if len(gathered) >= PIECE_BYTES:
                    yield bytes(gathered)
                    gathered.clear()
        yield bytes(gathered)


async def _pieces(segment: _Segment) -> AsyncIterator[bytes]:
    if isinstance(segment, bytes):
        yield segment
        return
    await segment.seek(0)  # a dependency may have read it
    while piece := await segment.read(PIECE_BYTES):
        yield piece
    await segment.seek(0)


def _multipart(form: FormData, boundary: bytes, charset: str) -> Iterator[_Segment]:
    for name, value in form.multi_items():
        yield b"--%b\r\n" % boundary
        if isinstance(value, str):
            quoted = name.translate(_QUOTED).encode(charset)
            yield b'Content-Disposition: form-data; name="%b"\r\n\r\n' % quoted
            yield value.encode(charset)
        else:
            yield b"".join(b"%b: %b\r\n" % pair for pair in value.headers.raw) + b"\r\n"
            yield value
        yield b"\r\n"
    yield b"--%b--\r\n" % boundary
