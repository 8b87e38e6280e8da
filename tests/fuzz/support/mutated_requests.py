"""Requests, and what mutation makes of them: the same bytes again for the same seed and number.

Rule 1: pure; an input is a function of its seed and its number, so that one that failed can be made again.
Rule 2: what is mutated are requests that are served and requests that are refused, alone or behind one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

__all__ = ["REQUESTS", "mutated"]

REQUESTS = [
    b"GET /any/path?a=b&c=%20 HTTP/1.1\r\nHost: example.com:80\r\nAccept: */*\r\nX-Request-Id: abc-1\r\n\r\n",
    b"GET /int/5 HTTP/1.0\r\nConnection: keep-alive\r\nCookie: a=b; c=d\r\n\r\n",
    b'POST /any HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a": 1}\n',
    b"POST /data HTTP/1.1\r\nHost: a\r\nX-Serve-Call-Method: take\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n4;ext=1\r\n[1,2\r\n1\r\n]\r\n0\r\nX-Trailer: t\r\n\r\n",
    b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 7\r\n\r\na=1&b=2",
    b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=xx\r\nContent-Length: 103\r\n\r\n"
    b'--xx\r\nContent-Disposition: form-data; name="a"; filename="b.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\n1\r\n--xx--",
    b"PUT /any HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/-/routes HTTP/1.1\r\nHost: a\r\nX-Serve-Timeout-S: 5\r\nForwarded: for=1.2.3.4\r\n\r\n",
    b"GET /any HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, X-Hop\r\nX-Hop: 1\r\n"
    b"X-Serve-Shard-Key: k\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nRange: bytes=0-1\r\n\r\n",
    b"GET /stream HTTP/1.0\r\nHost: a\r\n\r\n",
    b"GET /any HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"DELETE /any HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST /any HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    b"Content-Length: 25\r\n\r\nGET /stream HTTP/1.1\r\nA:b",
    b"POST /any HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n",
    b"GET http://a?b=c HTTP/1.1\r\nHost: a\r\n\r\n",
]
"""What is served, with whatever an HTTP client may say."""

PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b"\x0b", b":", b";", b",", b"%", b"%00", b"%2e%2e%2f", b"//", b"?", b"#",
    b"*", b"\"", b"\xff", b"\xc3\xa4", b"\xc2\xa0", b"0", b"-1", b"+1", b"0x1", b"1_0", b"99999999999999999999", b"_",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n", b"Content-Length: 16777217\r\n", b" folded\r\n", b"Host: b\r\n", b"Host: a b\r\n",
    b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/0.9", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0",
    b"Connection: close\r\n", b"Connection: keep-alive, Host\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n",
    b"Expect: other\r\n", b"X-Serve-Shard-Key: \xe4\r\n", b"X-Serve-Call-Method: __class__\r\n",
    b"X-Serve-Timeout-S: nan\r\n", b"X_Request_Id: a\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n",
    b"A: b\r\n" * 101, b"A: " + b"b" * 9_000 + b"\r\n", b"a" * 70_000, b"[" * 5_000, b"1\r\nx\r\n" * 50, b"/a" * 200,
]  # fmt: skip
"""What is put into requests: what means something somewhere, and what is too much."""

OPTIONS = [
    b"Connection: Upgrade", b"Connection: Upgrade, HTTP2-Settings", b"Connection: keep-alive, upgrade",
    b"Connection: Transfer-Encoding", b"Connection: Content-Length", b"Connection: Host, Expect",
    b"Connection: close", b"Connection: keep-alive", b"connection: upgrade,close", b"Proxy-Connection: close",
    b"Upgrade: h2c", b"Upgrade: websocket", b"Upgrade: TLS/1.0", b"Upgrade: websocket, h2c", b"upgrade: WEBSOCKET",
    b"HTTP2-Settings: AAMAAABk", b"Sec-WebSocket-Version: 13", b"Expect: 100-continue", b"TE: trailers",
]  # fmt: skip
"""What a client may say about the connection; none of it changes where a body ends."""

BODIES = [
    (b"Content-Length: 2", b"ab"),
    (b"Content-Length: 39", b"GET /any HTTP/1.1\r\nHost: smuggled\r\n\r\n\r\n"),
    (b"Content-Length: 21", b"GET /any HTTP/1.0\r\n\r\n"),
    (b"Content-Length: 12", b"0\r\n\r\nGET / H"),
    (b"Transfer-Encoding: chunked", b"0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"2\r\nab\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"15\r\nGET /any HTTP/1.0\r\n\r\n\r\n0\r\nX-T: u\r\n\r\n"),
    (b"Accept: */*", b""),
]  # fmt: skip
"""How a body is framed, and the body; some look like requests."""

LINES = [
    b"POST /any HTTP/1.1", b"PUT /any?a=b HTTP/1.1", b"GET /any HTTP/1.1", b"POST http://a HTTP/1.1",
    b"POST /any HTTP/1.0", b"CONNECT /any HTTP/1.1", b"CONNECT a:80 HTTP/1.1", b"OPTIONS /any HTTP/1.1",
]  # fmt: skip

NUMBERS = [b"0", b"00", b"1", b"2", b"8", b"-1", b"+1", b"1e3", b"0x10", b"65536", b"4294967296", b"9" * 30, b""]

Mutation = Callable[[Random, bytes], bytes]


def mutated(seed: int, number: int, more: Sequence[bytes] = ()) -> bytes:
    """Return input *number* of *seed*: one to three requests on one connection, of which a few bytes are others.

    One input in four is of requests that combine options of the connection with bodies, and most of these stay whole.

    Args:
        seed: Of the run.
        number: Of the input.
        more: Requests to take beside `REQUESTS`, one time in four.
    """
    random = Random(seed << 40 | number)
    count = random.choice((1, 1, 2, 3))
    if number % 4 == 0:
        data = b"".join(_combined(random) for _ in range(count))
        return random.choice(_MUTATIONS)(random, data) if random.random() < 0.3 else data
    data = b"".join(random.choice(more if more and random.random() < 0.25 else REQUESTS) for _ in range(count))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_MUTATIONS)(random, data)
    return data


def _combined(random: Random) -> bytes:
    framing, body = random.choice(BODIES)
    fields = [b"Host: a", framing, *random.sample(OPTIONS, random.randint(0, 4))]
    random.shuffle(fields)
    return b"\r\n".join([random.choice(LINES), *fields, b"", body])


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, start + random.randint(0, 20)


def _put_in(random: Random, data: bytes) -> bytes:
    start, _ = _span(random, data)
    return data[:start] + random.choice(PIECES) + data[start:]


def _put_instead(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + random.choice(PIECES) + data[end:]


def _put_at_a_line(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(random.randint(0, len(lines)), random.choice(PIECES).removesuffix(b"\r\n"))
    return b"\r\n".join(lines)


def _take_out(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _repeat(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:end] + data[start:end] * random.randint(1, 3) + data[end:]


def _change_bytes(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 4) if changed else 0):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _flip_a_bit(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _change_letters(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 4) if changed else 0):
        at = random.randrange(len(changed))
        if chr(changed[at]).isalnum():
            changed[at] = random.randrange(0x21, 0x7F)
    return bytes(changed)


def _move_lines(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    line = lines.pop(random.randrange(len(lines)))
    lines.insert(random.randint(0, len(lines)), line)
    return b"\r\n".join(lines)


def _end_lines_otherwise(random: Random, data: bytes) -> bytes:
    ends = random.choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b" \r\n"))
    return data.replace(b"\r\n", ends, random.choice((1, 2, -1)))


def _change_a_number(random: Random, data: bytes) -> bytes:
    digits = [at for at, byte in enumerate(data) if 0x30 <= byte <= 0x39]
    if not digits:
        return data
    at = random.choice(digits)
    return data[:at] + random.choice(NUMBERS) + data[at + 1 :]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


_MUTATIONS: Sequence[Mutation] = (
    _put_in, _put_instead, _put_at_a_line, _take_out, _repeat, _change_bytes, _change_letters, _flip_a_bit,
    _move_lines, _end_lines_otherwise, _change_a_number, _cut,
)  # fmt: skip
