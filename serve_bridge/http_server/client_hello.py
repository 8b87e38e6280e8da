"""The first message of a TLS client, with the protocols offered by the client."""

from __future__ import annotations

from typing import Final

__all__ = ["PROTOCOL", "protocols_offered"]

PROTOCOL: Final = "http/1.1"
"""The name of HTTP/1.1 in ALPN (RFC 7301). The server speaks no other protocol."""

_ALPN: Final = 16
"""Number of the extension for ALPN."""


def protocols_offered(hello: bytes) -> list[bytes] | None:
    """Return the protocols that a ClientHello (RFC 8446 section 4.1.2) offers by ALPN; None: it offers none.

    A malformed message offers none. OpenSSL refuses it.
    """
    reader = _Reader(hello)
    try:
        reader.take(4 + 2 + 32)  # the header of the message, version, random
        for size in (1, 2, 1):  # session id, cipher suites, compression methods
            reader.vector(size)
        extensions = _Reader(reader.vector(2))
        while extensions.left:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == _ALPN:
                names, found = _Reader(_Reader(content).vector(2)), []
                while names.left:
                    found.append(names.vector(1))
                return found
    except EOFError:
        pass
    return None


class _Reader:
    """Reads the numbers and vectors of TLS from bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Number of unread bytes."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes.

        Raises:
            EOFError: Fewer bytes are left.
        """
        if count > self.left:
            raise EOFError
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        """Return a number of *size* bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Return the content of a vector whose length has *size* bytes."""
        return self.take(self.number(size))
