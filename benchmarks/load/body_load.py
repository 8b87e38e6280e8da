"""One long body up or down over one connection. The client never holds more than one piece of the body."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

PIECE: Final = bytes(256 << 10)
LIMIT_S: Final = 60.0


class BodyLoadError(RuntimeError):
    """The body did not arrive completely, or not in time."""


def upload(url: str, length: int) -> float:
    """Send *length* bytes with a Content-Length to *url*, which answers with their number; return the seconds.

    Raises:
        BodyLoadError: The answer was different, the connection broke, or the upload took longer than `LIMIT_S`.
    """
    began = perf_counter()

    def pieces() -> Iterator[bytes]:
        for _ in range(length // len(PIECE)):
            _in_time(began)
            yield PIECE

    headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
    answer = _answer(url, "POST", pieces(), headers)
    told = answer.read()
    if told != str(length).encode():
        raise BodyLoadError(f"status {answer.status}, {told[:80]!r} in place of {length}")
    return perf_counter() - began


def download(url: str, length: int) -> float:
    """Read *length* bytes from *url*, and return the seconds.

    Raises:
        BodyLoadError: The number of bytes was different, or the download took longer than `LIMIT_S`.
    """
    began = perf_counter()
    answer = _answer(url, "GET", None, {})
    piece, received = memoryview(bytearray(len(PIECE))), 0
    try:
        while got := answer.readinto(piece):
            received += got
            _in_time(began)
    except (OSError, http.client.HTTPException) as error:
        raise BodyLoadError(f"broke off after {received} bytes: {error!r}") from error
    if received != length:
        raise BodyLoadError(f"status {answer.status}, {received} bytes in place of {length}")
    return perf_counter() - began


def _in_time(began: float) -> None:
    if perf_counter() - began > LIMIT_S:
        raise BodyLoadError(f"not complete within {LIMIT_S:g} s")


def _answer(url: str, method: str, body: Iterator[bytes] | None, headers: dict[str, str]) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=30)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body=body, headers=headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise BodyLoadError(repr(error)) from error
