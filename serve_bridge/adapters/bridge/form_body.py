"""The body of a request whose form the framework has parsed: the form is encoded again.

Rule 1: the boundary is new and random, since the parts may contain any text, the old boundary too.
Rule 2: names are escaped, so a name cannot end its line and begin another part.
Rule 3: files are read piece by piece from where the parser has stored them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from starlette.types import Scope

from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.headers import HeaderList

URLENCODED: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
_QUOTED: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "\r": "%0D", "\n": "%0A"})
_UNBROKEN: Final = str.maketrans("", "", "\r\n")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OWN_HEADERS: Final = frozenset({"content-disposition", "content-type", "content-length"})
"""Headers of a part that come from the other attributes of a `FormFile`."""
_REPLACED: Final = frozenset({b"content-type", b"content-length", b"transfer-encoding"})


class FormFile(NamedTuple):
    """An uploaded file.

    Attributes:
        name: Name of the field.
        filename: Name of the file, as the client has sent it.
        media_type: Content-Type with parameters; "" if the part had none.
        file: The file object, which is read from its beginning.
        size: Size in bytes; None if it is not known before the file is read.
        headers: Other headers of the part, as pairs. Those in `_OWN_HEADERS` are left out.
    """

    name: str
    filename: str
    media_type: str
    file: Any
    size: int | None
    headers: Iterable[tuple[str, str]] = ()


FormPart = tuple[str, str] | FormFile
"""Name and text of a field, or a file."""


class FormBody:
    """The encoded form, read like a file.

    Attributes:
        length: Length in bytes; None if it is not known before the files are read.
    """

    def __init__(self, parts: Iterable[FormPart], *, charset: str = "utf-8", urlencoded: bool = False) -> None:
        """Encode *parts* as multipart/form-data, or as `URLENCODED`, which leaves files out."""
        if urlencoded:
            self._content_type = URLENCODED
            text = urlencode([part for part in parts if not isinstance(part, FormFile)], encoding=charset).encode()
            pieces: list[tuple[Any, int | None]] = [(BytesIO(text), len(text))]
        else:
            boundary = secrets.token_hex(16)
            self._content_type = f"multipart/form-data; boundary={boundary}"
            pieces = list(_multipart(parts, boundary.encode(), charset))
        sizes = [size for _, size in pieces]
        self.length: int | None = sum(size or 0 for size in sizes) if None not in sizes else None
        self._files = iter([file for file, _ in pieces])
        self._file = next(self._files)

    def scope(self, old: Scope) -> Scope:
        """Return the scope *old* with the headers and the length of this body."""
        return {**old, "headers": self._headers(old["headers"]), BODY_LENGTH: self.length}

    def _headers(self, old: HeaderList) -> HeaderList:
        framing = (b"content-length", b"%d" % self.length) if self.length is not None else _CHUNKED
        kept = [pair for pair in old if pair[0] not in _REPLACED]
        return [*kept, (b"content-type", self._content_type.encode()), framing]

    def read(self, size: int, /) -> bytes:
        """Return *size* bytes, fewer only at the end of the body."""
        found = bytearray()
        while len(found) < size:
            piece = self._file.read(size - len(found))
            if piece:
                found += piece
                continue
            following = next(self._files, None)
            if following is None:
                break
            self._file = following
        return bytes(found)


_CHUNKED: Final = (b"transfer-encoding", b"chunked")


def _multipart(parts: Iterable[FormPart], boundary: bytes, charset: str) -> Iterator[tuple[Any, int | None]]:
    """Yield the files that make up the body, each with its size if that is known."""
    for part in parts:
        if isinstance(part, FormFile):
            part.file.seek(0)  # other code may have read from it
            described = f'{_quoted(part.name)}; filename="{part.filename.translate(_QUOTED)}"'
            yield _text(_head(boundary, described, part.media_type, charset, part.headers))
            yield part.file, part.size
            yield _text(b"\r\n")
        else:
            name, text = part
            yield _text(_head(boundary, _quoted(name), "", charset) + text.encode(charset, "replace") + b"\r\n")
    yield _text(b"--" + boundary + b"--\r\n")


def _quoted(name: str) -> str:
    return f'"{name.translate(_QUOTED)}"'


def media_type_of(kind: str, parameters: Iterable[tuple[str, str]]) -> str:
    """Return the Content-Type of *kind* and *parameters*, with values quoted where necessary; "" if *kind* is ""."""
    if not kind:
        return ""
    given = (
        f"{name}={value}" if _TOKEN.fullmatch(value) else f"{name}={_escaped(value)}" for name, value in parameters
    )
    return "; ".join((kind, *given))


def _escaped(value: str) -> str:
    return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'


def _head(
    boundary: bytes, described: str, media_type: str, charset: str, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    lines = [f"Content-Disposition: form-data; name={described}"]
    if media_type:
        lines.append(f"Content-Type: {media_type.translate(_UNBROKEN)}")
    for name, value in headers:
        if name.lower() not in _OWN_HEADERS and _TOKEN.fullmatch(name):
            lines.append(f"{name}: {value.translate(_UNBROKEN)}")
    return b"--" + boundary + b"\r\n" + "\r\n".join([*lines, "", ""]).encode(charset, "replace")


def _text(text: bytes) -> tuple[BytesIO, int]:
    return BytesIO(text), len(text)
