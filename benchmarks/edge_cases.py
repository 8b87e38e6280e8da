"""The requests that `edge_probe` sends, and what this project accepts of an edge's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: Row id of the requirements, and a few words.
        data: Bytes to send.
        wanted: Regular expression for the outcomes that this project accepts.
    """

    name: str
    data: bytes
    wanted: str


REFUSED = r"4\d\d closed"
BAD = r"400 closed"


def cases() -> Iterator[Case]:
    """Yield all cases; big ones are built when they are reached."""
    random_bytes = bytes((i * 7919 + 13) % 251 for i in range(65536))
    yield Case("plain GET", GET + END, r"200\+app open")
    yield Case("H01 random bytes", random_bytes, BAD)
    yield Case("H01 TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_bytes[:500], BAD)
    yield Case("H01 SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n", BAD)
    yield Case("H02 nothing sent", b"", "closed")
    yield Case("H03 half a head", b"GET / HTTP/1.1\r\nHo", "closed")
    yield Case("H04 no Host", b"GET /x HTTP/1.1\r\n\r\n", BAD)
    yield Case("H04 two equal Hosts", GET + b"Host: a\r\n\r\n", BAD)
    yield Case("H04 two Hosts", GET + b"Host: b\r\n\r\n", BAD)
    yield Case("H04 malformed Host", b"GET /x HTTP/1.1\r\nHost: a/b@c\r\n\r\n", BAD)
    yield Case(
        "H06 CL + TE",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET + END,
        BAD,
    )
    yield Case(
        "H06 TE + CL, odd case",
        POST + b"tRaNsFeR-eNcOdInG: chunked\r\ncontent-LENGTH: 5\r\n\r\n0\r\n\r\n",
        BAD,
    )
    yield Case(
        "H07 TE gzip, chunked",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        r"(400|501) closed",
    )
    yield Case("H07 TE ,chunked", POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", r"(400|501) closed")
    yield Case("H07 TE xchunked", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", r"(400|501) closed")
    yield Case("H07 TE on HTTP/1.0", CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", r"(400|501) closed")
    yield Case("H08 two CL, equal", POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", BAD)
    yield Case("H08 two CL", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", BAD)
    for value in (b"010", b"+1", b"-1", b"1_0", b"0x1", b"1, 1", b"1 1", b"", b"9" * 30):
        yield Case(
            f"H09 CL {value.decode()[:9]!r}",
            POST + b"Content-Length: " + value + b"\r\n\r\nx" * 2,
            r"4(00|13) closed",
        )
    yield Case("H10 space before colon", GET + b"A : b\r\n\r\n", BAD)
    yield Case("H10 obs-fold", GET + b"A: b\r\n c\r\n\r\n", BAD)
    yield Case("H10 bare LF", b"GET /x HTTP/1.1\nHost: a\n\n", BAD)
    yield Case("H10 bare CR in value", GET + b"A: b\rc\r\n\r\n", BAD)
    yield Case("H10 NUL in value", GET + b"A: b\0c\r\n\r\n", BAD)
    yield Case("H12 extension of 1 MB", CHUNKED + b"1;" + b"a" * MIB + b"\r\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 no CRLF after data", CHUNKED + b"1\r\nxx0\r\n\r\n", BAD)
    yield Case("H13 bare LF in chunk line", CHUNKED + b"1\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 1;", CHUNKED + b"1;\r\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 NUL in extension", CHUNKED + b"1;a=\0\r\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 final CRLF missing", CHUNKED + b"1\r\nx\r\n0\r\n", r"closed|408 closed")
    yield Case("H14 trailer Content-Length", CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", BAD)
    yield Case("H14 trailer Authorization", CHUNKED + b"0\r\nAuthorization: x\r\n\r\n", BAD)
    yield Case("H14 trailer X-Fine", CHUNKED + b"0\r\nX-Fine: x\r\n\r\n", r"200\+app open")
    yield Case("H14 10,000 trailers", CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 10_000 + END, "431 closed")
    for version in (b" HTTP/1.2", b" HTTP/01.1", b" HTTP/9.9", b"", b" RTSP/1.0", b" ICE/1.0", b" http/1.1"):
        yield Case(f"H16 GET /{version.decode()}", b"GET /x" + version + b"\r\nHost: a\r\n\r\n", r"(400|505) closed")
    yield Case("H16 HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", r"(400|505) closed")
    for line in (b"get /x", b"G\tT /x", b"GET  /x", b"GET\t/x", b"A" * 4096 + b" /x"):
        yield Case(
            f"H17 {line.decode()[:9]!r}",
            line + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            r"(400|405|414|501) closed|405 open",
        )
    for target in (b"*", b"foo", b"@host", b"/x#y", b"http://b/x", b"/\xff"):
        yield Case(f"H19 GET {target!r}"[:24], b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n", BAD)
    yield Case("H19 absolute form", b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", r"200\+app open|400 closed")
    yield Case("H19 OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", r"20[04] open")
    yield Case("H19 CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", r"40[05] closed")
    yield Case("H21 line of 8 KiB + 1", b"GET /" + b"a" * 8179 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "414 closed")
    yield Case("H21 line of 2 MB", b"GET /" + b"a" * 2 * MIB, "414 closed")
    yield Case("H22 101 headers", GET + b"A: b\r\n" * 100 + END, "431 closed")
    yield Case("H22 20,000 headers", GET + b"A: b\r\n" * 20_000 + END, "431 closed")
    yield Case("H22 header of 2 MB", GET + b"A: " + b"b" * 2 * MIB, "431 closed")
    yield Case("D03 5,000 copies", GET + b"Cookie: b\r\n" * 5_000 + END, "431 closed")
    yield Case("H23 1,000 pipelined", (GET + END) * 1_000, r"(200\+app )+open")
    yield Case("H23 valid, then invalid", GET + END + b"GET\r\n\r\n", r"200\+app 400 closed")
    yield Case(
        "H26 unread 100-continue",
        b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        r"200\+app (open|closed)",
    )
    yield Case(
        "H26 read 100-continue",
        POST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\nx",
        r"100 200\+app open",
    )
    yield Case("H26 unknown Expect", GET + b"Expect: 200-maybe\r\n\r\n", "417 closed")
    yield Case("H27 HEAD", b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", r"200\+app open")
    for status in (204, 304):
        yield Case(
            f"H27 {status} with a body",
            b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % status + GET + END,
            rf"{status}\+app 200\+app open",
        )
    yield Case("H28 close, keep-alive", GET + b"Connection: close, keep-alive\r\n\r\n", r"200\+app closed")
    yield Case("R04 %zz", b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", r"400 (closed|open)")
    yield Case("R04 %00", b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", r"400 (closed|open)")
    yield Case("D10 name with _", GET + b"X_A: b\r\n\r\n", r"200\+app open")
    yield Case("B05 CL above the limit", POST + b"Content-Length: 20000000\r\n\r\n", "413 closed")
    yield Case(
        "B05 chunked, 20 MB",
        CHUNKED + b"100000\r\n" + b"x" * MIB + (b"\r\n100000\r\n" + b"x" * MIB) * 19,
        r"413 (closed|reset)",
    )
    yield Case(
        "B13 unread upload",
        b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 16000000\r\n\r\n" + b"x" * 4 * MIB,
        r"200\+app (closed|reset)",
    )
    yield Case("S02 no body comes", POST + b"Content-Length: 5\r\n\r\n", r"closed|408 closed")
    yield Case("S03 nobody reads", b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n", "closed|reset")
    yield Case("S05 FIN after the request", b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n<FIN>", r"(100 )?200\+app closed")
    for status in (123, 99, 600):
        wanted = r"123\+app closed" if status == 123 else r"500 (closed|open)"
        yield Case(f"U03 status {status}", b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % status, wanted)
    yield Case("U04 CRLF in a header", b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n", r"500 (closed|open)")
    yield Case("U04 two Content-Lengths", b"GET /lengths HTTP/1.1\r\nHost: a\r\n\r\n", r"500 (closed|open)")
    yield Case("U05 body longer", b"GET /longer HTTP/1.1\r\nHost: a\r\n\r\n", r"200\+app (open|closed)")
    yield Case("stream to HTTP/1.0", b"GET /stream HTTP/1.0\r\n\r\n", r"200\+app closed")
