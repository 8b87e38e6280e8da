"""The framer cuts requests as a strict parser reads them, wherever the network cuts the bytes."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.proxy.http_framing import FramingLimits, Refusal, RequestFramer, body_length

LIMITS = FramingLimits(max_request_line_bytes=200, max_header_bytes=500, max_headers=8, max_body_bytes=1000)

LINES = st.sampled_from([
    b"GET / HTTP/1.1", b"POST /a%20b?c=%zz HTTP/1.1", b"PUT http://a/x HTTP/1.1", b"OPTIONS * HTTP/1.1",
    b"GET / HTTP/1.0", b"GET / HTTP/1.2", b"GET  / HTTP/1.1", b"GET x HTTP/1.1", b"GET /%00 HTTP/1.1",
    b"",
])  # fmt: skip
HOSTS = st.sampled_from([b"Host: a", b"Host: a:80", b"host: [::1]", b"Host: b", b"Host: a b", b"Host:"])
FIELDS = st.sampled_from([
    b"Content-Length: 3", b"Content-Length: 03", b"content-length: 0", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Host: a", b"Expect: 100-continue", b"X-A: b", b"X-A:",
    b"X-Host: a", b"X A: b", b" folded", b"A: \x00", b"A: \xe4", b"A: " + b"b" * 300,
])  # fmt: skip
BODIES = st.sampled_from([
    b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3;a=b\r\nabc\r\n0\r\nX-T: u\r\n\r\n", b"3\nabc\n0\n\n",
    b"3\r\nabcd\r\n0\r\n\r\n", b"1\r\na\r\n1;b\r\nc\r\n2\r\nde\r\n0\r\n\r\n", b"1\r\na\r\n3e8\r\nb",
    b"1\r\na\r\n1\r\nbc\r\n0\r\n\r\n", b"1\r\na\r\n1\nb\r\n0\r\n\r\n",
    b"0\r\nHost: x\r\n\r\n", b"fff\r\n", b"0\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
])  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, or something like one."""
    head = [draw(LINES), draw(HOSTS), *draw(st.lists(FIELDS, max_size=3))]
    return b"\r\n".join(head) + b"\r\n\r\n" + draw(BODIES)


CONNECTIONS = st.lists(requests(), min_size=1, max_size=3).map(b"".join)


def framed(pieces: list[bytes]) -> tuple[bytes, int | None]:
    """All that the framer let through, and the status with which it stopped."""
    framer, passed = RequestFramer(LIMITS), b""
    try:
        for piece in pieces:
            framer.receive(piece)
            while (out := framer.next_piece()) is not None:
                passed += out
    except Refusal as refusal:
        return passed, refusal.status
    return passed, None


def by_h11(data: bytes) -> list[tuple[bytes, bytes, bytes]] | None:
    """Method, target and body of each request, of the last one as far as it came; None if h11 refuses the bytes."""
    server = h11.Connection(h11.SERVER)
    found: list[tuple[bytes, bytes, bytes]] = []
    server.receive_data(data)
    try:
        while isinstance(request := server.next_event(), h11.Request):
            body = b""
            while isinstance(event := server.next_event(), h11.Data):
                body += bytes(event.data)
            whole = isinstance(event, h11.EndOfMessage)
            found.append((request.method, request.target, body if whole else body + b" and more"))
            if not whole:
                return found
            server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is not h11.DONE or server.their_state is not h11.DONE:
                return found
            server.start_next_cycle()
    except h11.RemoteProtocolError:
        return None
    return found


@given(CONNECTIONS, st.data())
def test_where_the_bytes_are_cut_makes_no_difference(data: bytes, draw: st.DataObject) -> None:
    """The same requests pass, however their bodies are chunked, and the same refusal follows."""

    def read(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]] | None, int | None]:
        passed, status = framed(pieces)
        return by_h11(passed), status

    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=12)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read(pieces) == read([data]) == read([data[at : at + 1] for at in range(len(data))])


@given(CONNECTIONS)
def test_what_passes_is_read_by_a_strict_parser_as_it_was_meant(data: bytes) -> None:
    """h11 takes all that passes; if all passes, it reads the same requests from the bytes as they came."""
    passed, status = framed([data])
    read = by_h11(passed)
    assert read is not None
    if status is None:
        assert read == by_h11(data)


@given(LINES, HOSTS, st.lists(FIELDS, max_size=3))
def test_the_place_of_the_host_makes_no_difference(line: bytes, host: bytes, fields: list[bytes]) -> None:
    """A head with Host in front is checked by a shorter way, with the same result."""

    def outcome(*lines: bytes) -> tuple[int | None, int | None]:
        try:
            return body_length(b"\r\n".join(lines) + b"\r\n\r\n", LIMITS), None
        except Refusal as refusal:
            return None, refusal.status

    if not (fields and fields[0].startswith(b" ")):  # a folded line belongs to the line before
        assert outcome(line, host, *fields) == outcome(line, *fields, host)


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
    assert framer.next_piece() == b"14\r\n" + b"a" * 20 + b"\r\n"
    assert (framer.body_received, framer.body_left) == (20, 1000 - 20 * 5)
    assert framer.next_piece() == b"0\r\n\r\n"
