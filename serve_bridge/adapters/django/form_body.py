"""A form with files that Django has parsed, as a body again.

Rule 1: files are read as the body is, piece by piece; large ones stay in the temporary files they are in.
Rule 2: fields come before files, each in the order of the first of its name: Django keeps no other order.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any, Protocol

from django.conf import settings
from django.http import HttpRequest

_ESCAPED = str.maketrans({'"': '\\"', "\\": "\\\\", "\r": "%0D", "\n": "%0A"})


class _File(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FormBody:
    """The body of a request of type multipart/form-data, read from its POST and FILES.

    Attributes:
        length: How long it is.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._encoding = request.encoding or settings.DEFAULT_CHARSET
        self._boundary = f"--{(request.content_params or {})['boundary']}".encode("ascii")
        parts = list(self._parts(request))
        self.length = sum(length for _, length in parts) + len(self._boundary) + 4
        self._pieces = iter([*(piece for piece, _ in parts), BytesIO(self._boundary + b"--\r\n")])
        self._piece = next(self._pieces)

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes; none at its end."""
        while not (found := self._piece.read(size)):
            following = next(self._pieces, None)
            if following is None:
                return b""
            self._piece = following
        return found

    def _parts(self, request: HttpRequest) -> Iterator[tuple[_File, int]]:
        """Yield what is to be read, and how long it is."""
        for name, values in request.POST.lists():
            for value in values:
                text = self._head(name) + str(value).encode(self._encoding, "replace") + b"\r\n"
                yield BytesIO(text), len(text)
        for name, files in request.FILES.lists():
            for file in files:
                head = self._head(name, file)
                file.seek(0)
                yield BytesIO(head), len(head)
                yield file, file.size
                yield BytesIO(b"\r\n"), 2

    def _head(self, name: str, file: Any = None) -> bytes:
        described = f'form-data; name="{name.translate(_ESCAPED)}"'
        if file is not None:
            described += f'; filename="{(file.name or "").translate(_ESCAPED)}"'
        lines = [f"Content-Disposition: {described}"]
        if file is not None:
            lines.append(f"Content-Type: {_media_type(file)}")
        text = "\r\n".join([*lines, "", ""]).encode(self._encoding, "replace")
        return self._boundary + b"\r\n" + text


def _media_type(file: Any) -> str:
    given: str = file.content_type or "application/octet-stream"
    extra = getattr(file, "content_type_extra", None) or {}
    charset = getattr(file, "charset", None)
    parameters = {**{name: _text(value) for name, value in extra.items()}, **({"charset": charset} if charset else {})}
    return "; ".join([given, *(f"{name}={value}" for name, value in parameters.items())])


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
