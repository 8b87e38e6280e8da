"""The framer cuts requests as a strict parser reads them, wherever the network cuts the bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.http_server.http_framing import RequestFramer
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.request_head import RequestHead
from serve_bridge.http_server.request_line import FramingLimits
from tests.faults.report.figures import note
from tests.fuzz.support.framing_oracle import Request, read_by_h11
from tests.fuzz.support.inputs import SEED, numbers, repeat
from tests.fuzz.support.mutated_requests import mutated

LIMITS = FramingLimits(max_request_line_bytes=200, max_header_bytes=500, max_headers=8, max_body_bytes=1000)

LINES = st.sampled_from([
    b"GET / HTTP/1.1", b"POST /a%20b?c=%zz HTTP/1.1", b"PUT http://a/x HTTP/1.1", b"OPTIONS * HTTP/1.1",
    b"GET / HTTP/1.0", b"GET / HTTP/1.2", b"GET  / HTTP/1.1", b"GET x HTTP/1.1", b"GET /%00 HTTP/1.1",
    b"GET http://a HTTP/1.1", b"POST http://a?b HTTP/1.1", b"GET ?b HTTP/1.1", b"CONNECT a:80 HTTP/1.1",
    b"CONNECT /x HTTP/1.1", b"POST / HTTP/1.0", b"FROB / HTTP/1.1", b"",
])  # fmt: skip
HOSTS = st.sampled_from([b"Host: a", b"Host: a:80", b"host: [::1]", b"Host: b", b"Host: a b", b"Host:"])
FIELDS = st.sampled_from([
    b"Content-Length: 3", b"Content-Length: 03", b"content-length: 0", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Host: a", b"Expect: 100-continue", b"X-A: b", b"X-A:",
    b"X-Host: a", b"X A: b", b" folded", b"A: \x00", b"A: \xe4", b"A: " + b"b" * 300,
    b"Connection: Upgrade", b"Connection: Upgrade, HTTP2-Settings", b"connection: close, upgrade",
    b"Connection: transfer-encoding", b"Connection: content-length, host", b"Connection: keep-alive",
    b"Upgrade: h2c", b"Upgrade: websocket", b"upgrade: WebSocket, h2c", b"Upgrade: TLS/1.0", b"HTTP2-Settings: AA",
    b"TE: trailers", b"Keep-Alive: timeout=5",
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
    head = [draw(LINES), draw(HOSTS), *draw(st.lists(FIELDS, max_size=5))]
    return b"\r\n".join(head) + b"\r\n\r\n" + draw(BODIES)


CONNECTIONS = st.lists(requests(), min_size=1, max_size=3).map(b"".join)


@dataclass
class Framed:
    """What a framer made of the bytes of a connection.

    Attributes:
        requests: The requests, the last one as far as it came.
        status: That of the refusal with which it stopped.
        rest: What follows a request for a WebSocket.
    """

    requests: list[Request] = field(default_factory=list)
    status: int | None = None
    rest: bytes | None = None


def framed(pieces: list[bytes], limits: FramingLimits = LIMITS) -> Framed:
    """Return what the framer reads from *pieces*, up to the request after which the connection closes."""
    framer, found, head = RequestFramer(limits), Framed(), None
    try:
        for piece in pieces:
            framer.receive(piece)
            while (out := framer.next_piece()) is not None:
                if isinstance(out, RequestHead):
                    head = out
                    if head.refusal is not None:
                        raise head.refusal
                    found.requests.append(Request(out.method.encode(), target_of(out), b"", framer.at_head))
                else:
                    begun = found.requests.pop()
                    found.requests.append(Request(begun.method, begun.target, begun.body + out, framer.at_head))
                assert head is not None
                if head.websocket:
                    break
                if framer.at_head and not head.keep_alive:
                    return found
            if head is not None and head.websocket:
                found.rest = (found.rest or b"") + framer.rest()
    except Refusal as refusal:
        found.status = refusal.status
    return found


def target_of(head: RequestHead) -> bytes:
    """Return what *head* asks for, with its query."""
    return head.target + (b"?" + head.query if head.query else b"")


def below_host(request: Request) -> Request:
    """Return *request* with the path of an absolute target, and without the mark of an empty query."""
    target = request.target.removesuffix(b"?")
    if target.lower().startswith(b"http://a"):
        target = target[len(b"http://a") :]
        target = target if target.startswith(b"/") else b"/" + target
    return Request(request.method, target, request.body, request.is_whole)


@given(CONNECTIONS, st.data())
def test_where_the_bytes_are_cut_makes_no_difference(data: bytes, draw: st.DataObject) -> None:
    """The same requests are read, however their bodies are chunked, and the same refusal follows."""
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=12)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert framed(pieces) == framed([data]) == framed([data[at : at + 1] for at in range(len(data))])


@given(CONNECTIONS)
def test_a_strict_parser_reads_the_same_requests(data: bytes) -> None:
    """h11 finds the same number of requests with the same boundaries and bytes; the framer may only refuse more."""
    assert_read_alike(data)


def test_a_strict_parser_reads_the_same_mutated_requests() -> None:
    """The same holds for the inputs of the fuzzer of the edge, upgrades with bodies among them."""
    sent = numbers(1_000)
    for number in sent:
        assert_read_alike(mutated(SEED, number), FramingLimits(), repeat(number))
    note(len(sent), f"{len(sent)} mutated requests")


def assert_read_alike(data: bytes, limits: FramingLimits = LIMITS, repeated: str = "") -> None:
    """Compare what the framer and h11 read from *data*; *repeated* says how it is made again."""
    ours, theirs = framed([data], limits), read_by_h11(data)
    requests = [below_host(request) for request in theirs.requests]
    if ours.status is None:
        assert (ours.requests, ours.rest) == (requests, theirs.rest), (repeated, data)
    else:
        whole = [request for request in ours.requests if request.is_whole]
        assert whole == requests[: len(whole)], (repeated, data)
