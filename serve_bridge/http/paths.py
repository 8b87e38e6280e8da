"""The path and the query of a request as bytes. Neither PEP 3333 nor RFC 3986 gives their encoding.

Rule 1: a decoded path has lost all bytes outside UTF-8. Only the raw path has them.
"""

from __future__ import annotations

import codecs
import re
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

__all__ = ["ascii_query", "is_text_of", "quoted", "split_path", "without_high_escapes"]

_SAFE: Final = "/:@!$&'()*+,;=~"
_NO_ASCII: Final = re.compile(rb"[\x80-\xff]+")
_HIGH_ESCAPE: Final = re.compile(rb"%([89A-Fa-f][0-9A-Fa-f])")


def ascii_query(query: bytes) -> bytes:
    """Return *query* with other bytes than ASCII percent-encoded. Browsers and curl send them raw, as UTF-8."""
    return query if query.isascii() else _NO_ASCII.sub(lambda found: quote_from_bytes(found[0]).encode(), query)


def quoted(path: bytes) -> bytes | None:
    """Return *path* as a raw path if its bytes are not UTF-8. Otherwise return None, because the text is enough."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return quote_from_bytes(path, _SAFE).encode()
    return None


def without_high_escapes(path: str) -> bytes:
    """Return the bytes of *path*. Django writes escapes for bytes above 127; they are decoded here."""
    return _HIGH_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), path.encode())


def split_path(path: str, raw_path: bytes | None, root_path: str) -> tuple[bytes, bytes]:
    """Split the bytes of a path at its mount point. Return the part above and the part below.

    Args:
        path: Decoded path, with *root_path*.
        raw_path: Path as the client sent it; None if unknown.
        root_path: Decoded path of the mount point.
    """
    whole = _bytes_of(path, raw_path)
    if not root_path:
        return b"", whole
    # Decoding keeps each slash, so the mount point ends at the same slash in the decoded and the raw path.
    parts = whole.split(b"/")
    slashes = root_path.count("/") + 1
    above = b"/".join(parts[:slashes])
    if is_text_of(root_path, above):
        return above, whole[len(above) :]
    below = path[len(root_path) :] if path.startswith(root_path) else path
    return root_path.encode(), below.encode()


def _bytes_of(path: str, raw_path: bytes | None) -> bytes:
    """Return the decoded bytes of *raw_path* if it is the raw form of *path*. Otherwise return those of *path*."""
    if raw_path and (b"%" in raw_path or not path.isascii()):
        raw = unquote_to_bytes(raw_path)
        if is_text_of(path, raw):
            return raw
    return path.encode("utf-8", "surrogateescape")


def is_text_of(text: str, raw: bytes) -> bool:
    """Return whether *text* is *raw* decoded, with replacement characters, or with escapes as in Django."""
    return text == raw.decode("utf-8", "replace") or ("%" in text and text == raw.decode("utf-8", _ESCAPED))


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


_ESCAPED: Final = "serve_bridge.escaped"
codecs.register_error(_ESCAPED, _escaped)
