"""What a framer and a head make of one request; `tests/fuzz/test_framing.py` compares them with a strict parser."""

from __future__ import annotations

import pytest

from serve_bridge.http_server.http_framing import MOST_CHUNKS, RequestFramer
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.request_head import RequestHead, read_head
from serve_bridge.http_server.request_line import FramingLimits

LIMITS = FramingLimits(max_request_line_bytes=200, max_header_bytes=500, max_headers=8, max_body_bytes=1000)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b"A"),
        (b"GET /", b"a"),
        (b"GET / HTTP/1.1\r\n", b"A: b\r\n"),
        (b"GET / HTTP/1.1\r\nA: ", b"b"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;abc=def\r\nx\r\n"),
    ],
)
def test_nothing_endless_is_buffered(start: bytes, more: bytes) -> None:
    """The refusal comes when a limit is passed, not when the end is found."""
    framer, most = RequestFramer(LIMITS), 0
    with pytest.raises(Refusal):  # noqa: PT012
        framer.receive(start)
        for _ in range(3_000):
            while framer.next_piece() is not None:
                pass
            framer.receive(more)
            most = max(most, framer.buffered)
    assert most <= 200 + 500 + len(more)


def test_a_body_is_counted_as_it_comes() -> None:
    """What is left, and what came, are known for deadlines and for bodies that nobody reads."""
    framer = RequestFramer(LIMITS)
    framer.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc")
    while framer.next_piece() is not None:
        pass
    assert (framer.at_head, framer.body_left, framer.body_received) == (False, 2, 3)


def test_small_chunks_leave_as_one() -> None:
    """A body costs by its bytes, not by its chunks; extensions are dropped, and count."""
    framer = RequestFramer(LIMITS)
    framer.receive(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    framer.next_piece()
    framer.receive(b"1;b=c\r\na\r\n" * 20 + b"0\r\n\r\n")
    assert framer.next_piece() == b"a" * 20
    assert (framer.body_received, framer.body_left) == (20, 1000 - 20 * 5)
    assert (framer.next_piece(), framer.at_head) == (b"", True)


def test_a_quoted_chunk_extension_may_hold_escapes() -> None:
    """RFC 9110 section 5.6.4 lets a quoted string hold them, and bytes above ASCII."""
    framer = RequestFramer(LIMITS)
    framer.receive(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    framer.next_piece()
    framer.receive(b'1;b="c;\\"d\\\\\xe9";e=f\r\na\r\n0\r\n\r\n')
    assert framer.next_piece() == b"a"
    assert (framer.next_piece(), framer.at_head) == (b"", True)


def test_one_piece_holds_a_limited_number_of_chunks() -> None:
    """A client chooses how many fit in one read, and others wait while they are cut out."""
    framer = RequestFramer(LIMITS)
    framer.receive(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000)
    framer.next_piece()
    pieces = list(iter(framer.next_piece, None))
    assert [len(piece) for piece in pieces] == [MOST_CHUNKS] * (1000 // MOST_CHUNKS) + [1000 % MOST_CHUNKS]


def head_of(line: bytes, *fields: bytes) -> RequestHead:
    """Return what is read from a head."""
    return read_head(b"\r\n".join([line, b"Host: a", *fields, b"", b""]), LIMITS)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),
        ([b"Content-Length: 0"], 0),
        ([b"Content-Length: 7"], 7),
        ([b"Transfer-Encoding: Chunked"], None),
        ([b"Connection: transfer-encoding", b"Transfer-Encoding: chunked"], None),
        ([b"Connection: content-length", b"Content-Length: 7"], 7),
        ([b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 7"], 7),
    ],
)
def test_the_length_of_a_body_is_a_fact_of_its_head(fields: list[bytes], length: int | None) -> None:
    """No option of the connection changes it."""
    head = head_of(b"POST / HTTP/1.1", *fields)
    assert (head.body_length, head.websocket) == (length, False)


@pytest.mark.parametrize(
    ("line", "target", "query"),
    [
        (b"GET http://a HTTP/1.1", b"/", b""),
        (b"GET HTTP://A HTTP/1.1", b"/", b""),
        (b"GET http://a?b=c HTTP/1.1", b"/", b"b=c"),
        (b"GET https://a/b?c HTTP/1.1", b"/b", b"c"),
        (b"OPTIONS http://a HTTP/1.1", b"*", b""),
        (b"OPTIONS http://a/ HTTP/1.1", b"/", b""),
        (b"GET /? HTTP/1.1", b"/", b""),
        (b"GET /a?b?c/d HTTP/1.1", b"/a", b"b?c/d"),
        ("GET /a?b=ä&c=%zz HTTP/1.1".encode(), b"/a", b"b=%C3%A4&c=%zz"),
        (b"GET /a?\xff HTTP/1.1", b"/a", b"%FF"),
    ],
)
def test_a_target_is_split_into_path_and_query(line: bytes, target: bytes, query: bytes) -> None:
    """An absolute target without a path means the root; bytes of a query that are not ASCII are percent-encoded."""
    head = head_of(line)
    assert (head.target, head.query) == (target, query)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1", 405),
        (b"CONNECT / HTTP/1.1", 405),
        (b"CONNECT http://a/ HTTP/1.1", 405),
        (b"GET ?a HTTP/1.1", 400),
        (b"GET *?a HTTP/1.1", 400),
        (b"OPTIONS *?a HTTP/1.1", 400),
        (b"GET http://a* HTTP/1.1", 400),
        (b"GET http:///a HTTP/1.1", 400),
        ("GET /ä HTTP/1.1".encode(), 400),
        (b"Get / HTTP/1.1", 501),
    ],
)
def test_a_bad_request_line_is_refused(line: bytes, status: int) -> None:
    """The status says what is wrong with it."""
    with pytest.raises(Refusal) as caught:
        head_of(line)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ([b"Connection: Upgrade", b"Upgrade: websocket"], True),
        ([b"Connection: keep-alive, upgrade", b"Upgrade: WebSocket"], True),
        ([b"Connection: keep-alive", b"Connection: Upgrade", b"Upgrade: websocket"], True),
        ([b"Upgrade: websocket"], False),
        ([b"Connection: upgraded", b"Upgrade: websocket"], False),
        ([b"Connection: Upgrade"], False),
        ([b"Connection: Upgrade", b"Upgrade: h2c"], False),
        ([b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket"], False),
    ],
)
def test_only_a_whole_offer_asks_for_a_websocket(fields: list[bytes], wanted: bool) -> None:
    """An upgrade to anything else is ignored (RFC 9110 section 7.8)."""
    own = [b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    assert head_of(b"GET / HTTP/1.1", *fields, *own).websocket is wanted


def test_fields_of_the_connection_stay_at_the_edge() -> None:
    """What Connection lists goes too, but for the fields that describe the message and its sender."""
    head = head_of(
        b"POST / HTTP/1.1",
        b"Connection: X-Hop, cookie, content-length, upgrade",
        b"Upgrade: h2c",
        b"X-Hop: 1",
        b"Cookie: a=b",
        b"Content-Length: 1",
        b"X_A: 1",
        b"B: \t2 ",
    )
    assert head.headers == [(b"host", b"a"), (b"cookie", b"a=b"), (b"content-length", b"1"), (b"b", b"2")]
