"""The HTTP server of the proxy, over real sockets: every answer is read by h11, a strict client."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.server import HttpServer
from serve_bridge.http_server.websocket_connection import WebSocketConnection
from tests.support.certificates import make_certificate
from tests.support.edge_server import Application, Running, answers, read_all, running, statuses, wait_until_refused
from tests.support.listening import free_port, has_ipv6
from tests.support.raw_websocket import TEXT, frame, handshake
from tests.support.waiting import wait_until

MIB = 1024 * 1024
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n"


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    """A server with the default limits and deadlines."""
    with running() as server:
        yield server


@pytest.fixture
def edge(patient: Running) -> Running:
    """The patient server, without memories."""
    wait_until(lambda: not patient.server._state.tasks)  # of clients that have left before they were served
    patient.app.paths.clear()
    return patient


@pytest.fixture(scope="module", params=["plain", "tls"])
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with short deadlines, which are the same over TLS."""
    options: dict[str, Any] = {f"{name}_timeout_s": 0.2 for name in ("header", "body", "write", "keep_alive")}
    if request.param == "tls":
        certificate = make_certificate(tmp_path_factory.mktemp("tls"))
        options |= {"tls": certificate.client, **certificate.options}
    with running(**options) as server:
        yield server


# What is refused


REFUSED: dict[str, tuple[bytes, set[int]]] = {
    "H01 random bytes": (bytes((i * 7919 + 13) % 251 for i in range(65536)), {400}),
    "H01 TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
    "H01 SSH banner": (b"SSH-2.0-OpenSSH_9.6\r\n", {400}),
    "H04 no Host": (b"GET /x HTTP/1.1\r\n\r\n", {400}),
    "H04 two equal Hosts": (GET + b"Host: a\r\n\r\n", {400}),
    "H04 two Hosts": (GET + b"hOST: b\r\n\r\n", {400}),
    "H04 Host with a slash": (b"GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", {400}),
    "H04 Host with userinfo": (b"GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n", {400}),
    "H04 empty Host": (b"GET /x HTTP/1.1\r\nHost:\r\n\r\n", {400}),
    "H04 Host list": (b"GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n", {400}),
    "H06 CL then TE": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + LAST,
        {400},
    ),
    "H06 TE then CL": (
        POST + b"tRANSFER-eNCODING: chunked\r\ncontent-LENGTH: 5\r\n\r\n0\r\n\r\n" + LAST,
        {400},
    ),
    "H07 gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "H07 ,chunked": (POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "H07 two TE": (POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", {400, 501}),
    "H07 identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", {400, 501}),
    "H07 TE on HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", {400, 501}),
    "H08 two equal CL": (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", {400}),
    "H08 two CL": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", {400}),
    "H10 space before colon": (GET + b"A : b\r\n\r\n", {400}),
    "H10 no name": (GET + b": b\r\n\r\n", {400}),
    "H10 no colon": (GET + b"A\r\n\r\n", {400}),
    "H10 obs-fold": (GET + b"A: b\r\n c\r\n\r\n", {400}),
    "H10 bare LF": (b"GET /x HTTP/1.1\nHost: a\n\n", {400}),
    "H10 bare LF in the head": (GET + b"A: b\nC: d\r\n\r\n", {400}),
    "H10 bare CR": (GET + b"A: b\rc\r\n\r\n", {400}),
    "H10 NUL": (GET + b"A: b\0c\r\n\r\n", {400}),
    "H12 chunk extension of 1 MB": (CHUNKED + b"1;" + b"a" * MIB + b"\r\nx\r\n0\r\n\r\n", {400}),
    "H13 no CRLF after data": (CHUNKED + b"1\r\nxx0\r\n\r\n", {400}),
    "H13 bare LF in a chunk line": (CHUNKED + b"1\nx\r\n0\r\n\r\n", {400}),
    "H13 bare CR in a chunk line": (CHUNKED + b"1\rx\r\n0\r\n\r\n", {400}),
    "H13 empty extension": (CHUNKED + b"1;\r\nx\r\n0\r\n\r\n", {400}),
    "H13 space before an extension": (CHUNKED + b"1 ;a=b\r\nx\r\n0\r\n\r\n", {400}),
    "H13 NUL in an extension": (CHUNKED + b"1;a=\0\r\nx\r\n0\r\n\r\n", {400}),
    "H13 0x size": (CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n", {400}),
    "H13 negative size": (CHUNKED + b"-1\r\nx\r\n0\r\n\r\n", {400}),
    "H13 endless size": (CHUNKED + b"0" * 300, {400}),
    "H14 trailer CL": (CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n" + LAST, {400}),
    "H14 trailer Host": (CHUNKED + b"0\r\nHost: b\r\n\r\n" + LAST, {400}),
    "H14 trailer X-Forwarded-For": (CHUNKED + b"0\r\nX-Forwarded-For: b\r\n\r\n" + LAST, {400}),
    "H14 trailer Authorization": (CHUNKED + b"0\r\nauthorization: b\r\n\r\n" + LAST, {400}),
    "H14 10,000 trailers": (CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 10_000 + END, {431}),
    "H14 trailer of 1 MB": (CHUNKED + b"0\r\nX-A: " + b"b" * MIB, {431}),
    "H16 HTTP/1.2": (b"GET /x HTTP/1.2\r\nHost: a\r\n\r\n", {400, 505}),
    "H16 HTTP/01.1": (b"GET /x HTTP/01.1\r\nHost: a\r\n\r\n", {400, 505}),
    "H16 HTTP/9.9": (b"GET /x HTTP/9.9\r\nHost: a\r\n\r\n", {400, 505}),
    "H16 HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "H16 HTTP/0.9": (b"GET /x\r\n", {400, 505}),
    "H16 RTSP": (b"OPTIONS /x RTSP/1.0\r\nHost: a\r\n\r\n", {400, 505}),
    "H16 ICE": (b"SOURCE /x ICE/1.0\r\nHost: a\r\n\r\n", {400, 505}),
    "H17 get": (b"get /x HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405, 501}),
    "H17 unknown method": (b"FROB /x HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405, 501}),
    "H17 tab": (b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405, 501}),
    "H17 two spaces": (b"GET  /x HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405, 501}),
    "H17 method of 4 KiB": (b"A" * 4096 + b" /x HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405, 501}),
    "H19 GET *": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "H19 CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", {405}),
    "H19 CONNECT with a path": (b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n" + LAST, {405}),
    "H19 CONNECT with a body": (b"CONNECT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n" + LAST, {405}),
    "H19 CONNECT in absolute form": (b"CONNECT http://a/x HTTP/1.1\r\nHost: a\r\n\r\n" + LAST, {405}),
    "H19 other authority": (b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "H19 ftp": (b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "H20 foo": (b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "H20 @host": (b"GET @host HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "H20 fragment": (b"GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "H20 raw UTF-8": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "H21 one byte too long": (b"GET /" + b"a" * 8179 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {414}),
    "H21 2 MB without an end": (b"GET /" + b"a" * 2 * MIB, {414}),
    "H22 101 headers": (GET + b"A: b\r\n" * 100 + END, {431}),
    "H22 20,000 headers": (GET + b"A: b\r\n" * 20_000 + END, {431}),
    "H22 header of 2 MB": (GET + b"A: " + b"b" * 2 * MIB, {431}),
    "H22 block of 64 KiB + 1": (GET + b"A: " + b"b" * (65536 - 15) + b"\r\n\r\n", {431}),
    "H26 unknown Expect": (GET + b"Expect: 200-maybe\r\n\r\n", {417}),
    "R04 broken escape": (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "R04 half an escape": (b"GET /% HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "R04 NUL": (b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "B05 declared": (POST + b"Content-Length: 67108864\r\n\r\n", {413}),
    "B05 declared and sent": (POST + b"Content-Length: 67108864\r\n\r\n" + b"x" * 20 * MIB, {413}),
    "B05 not asked to continue": (POST + b"Content-Length: 67108864\r\nExpect: 100-continue\r\n\r\n", {413}),
    "B05 one huge chunk": (CHUNKED + b"4000000\r\n" + b"x" * MIB, {413}),
    "B05 many chunks": (CHUNKED + (b"100000\r\n" + b"x" * MIB + b"\r\n") * 17, {413}),
} | {
    f"H09 CL {value[:5]!r}": (POST + b"Content-Length: " + value + b"\r\n\r\nx", {400})
    for value in (b"010", b"+1", b"-1", b"1_0", b"0x1", b"1, 1", b"1 1", b"1.0", b"", b"9" * 30, b"\xb2")
}


@pytest.mark.parametrize(("data", "wanted"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_and_the_connection_closed(edge: Running, data: bytes, wanted: set[int]) -> None:
    """One answer, in problem+json and with a request id; what follows on the connection is never served."""
    (answer,) = answers(edge.exchange(data))
    assert answer.status in wanted
    assert answer.headers[b"connection"] == b"close"
    assert answer.headers[b"content-type"] == b"application/problem+json"
    assert json.loads(answer.body)["request_id"] == answer.headers[b"x-request-id"].decode()
    assert "/last" not in edge.app.paths


def test_a_refusal_is_one_log_line_without_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody fills the log, or writes into it, with bad bytes."""
    with running() as edge, caplog.at_level("INFO", "serve_bridge.proxy"):
        edge.exchange(GET + b"Host: forged\r\n\r\n")
    assert len(caplog.records) == 1
    assert "forged" not in caplog.text


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("name", ["H06 TE then CL", "H13 no CRLF after data", "H22 101 headers", "H16 HTTP/0.9"])
def test_a_bad_request_in_pieces_is_refused_alike(edge: Running, name: str, step: int) -> None:
    """Where the network cuts the bytes makes no difference."""
    data, wanted = REFUSED[name]
    with edge.client() as client, contextlib.suppress(ConnectionError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), step):
            client.send(data[start : start + step])
        assert {answer.status for answer in answers(read_all(client))} <= wanted


# What is served


SERVED: dict[str, tuple[bytes, list[int]]] = {
    "empty line before": (b"\r\n" + LAST, [200]),
    "H26 empty Expect": (LAST.replace(b"\r\n", b"\r\nExpect:\r\n", 1), [200]),
    "absolute form": (LAST.replace(b"/last", b"http://a/last?q"), [200]),
    "HTTP/1.0 without a Host": (b"GET /last HTTP/1.0\r\n\r\n", [200]),
    "IPv6 Host": (LAST.replace(b"Host: a", b"Host: [::1]:8000"), [200]),
    "line of 8 KiB": (b"GET /" + b"a" * 8178 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [200]),
    "100 headers": (GET + b"A: b\r\n" * 98 + b"Connection: close\r\n\r\n", [200]),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + LAST, [204, 200]),
    "chunked": (CHUNKED + b"3\r\nabc\r\n0;a=b\r\nX-Fine: y\r\n\r\n" + LAST, [200, 200]),
    "content-length": (POST + b"Content-Length: 3\r\n\r\nabc" + LAST, [200, 200]),
    "small body that nobody reads": (GET + b"Content-Length: 3\r\n\r\nabc" + LAST, [200, 200]),
    "other upgrade": (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + LAST, [200, 200]),
    "1,000 pipelined": ((GET + END) * 1_000 + LAST, [200] * 1_001),
    "valid, then invalid": (GET + END + b"GET\r\n\r\n" + LAST, [200, 400]),
    "close, keep-alive": (GET + b"Connection: close, keep-alive\r\n\r\n" + LAST, [200]),
    "connection lists content-length": (
        POST + b"Connection: content-length\r\nContent-Length: 3\r\n\r\nabc" + LAST,
        [200, 200],
    ),
}


@pytest.mark.parametrize(("data", "wanted"), SERVED.values(), ids=SERVED)
def test_good_requests_are_answered_in_order(edge: Running, data: bytes, wanted: list[int]) -> None:
    """One answer a request, and the connection stays in step."""
    assert statuses(edge.exchange(data)) == wanted


HIDDEN = b"GET /hidden HTTP/1.1\r\n\r\n"
"""A request without a Host, which the edge would refuse."""


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
        b"Connection: Upgrade\r\nUpgrade: TLS/1.0, websocket\r\n",
        b"Connection: Upgrade\r\nUpgrade: anything\r\nExpect: 100-continue\r\n",
        b"Connection: Upgrade\r\n",
        b"Upgrade: websocket\r\n",
        b"Connection: Transfer-Encoding, Content-Length\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_option_of_the_connection_does_not_change_where_a_body_ends(
    edge: Running, fields: bytes, chunked: bool, version: bytes
) -> None:
    """An upgrade that the server does not take is ignored (RFC 9110 section 7.8): the body belongs to its request."""
    if chunked and version == b"1.0":
        return
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(HIDDEN)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN) if chunked else HIDDEN
    head = POST.replace(b"1.1", version) + fields + framing + b"\r\n\r\n"
    found = answers(edge.exchange(head + body + LAST).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
    assert found[0].body == HIDDEN
    assert edge.app.paths == (["/read", "/last"] if version == b"1.1" else ["/read"])


def test_a_body_behind_an_upgrade_may_come_later(edge: Running) -> None:
    """Nothing is decided by what one read has brought."""
    with edge.client() as client:
        client.sendall(POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN))
        for start in range(0, len(HIDDEN), 5):
            client.sendall(HIDDEN[start : start + 5])
        client.sendall(LAST)
        assert answers(read_all(client))[0].body == HIDDEN
    assert edge.app.paths == ["/read", "/last"]


@pytest.mark.parametrize("target", [b"http://a", b"http://a?q=1", b"http://a/?q=1"])
def test_an_absolute_target_without_a_path_means_the_root(edge: Running, target: bytes) -> None:
    """As RFC 9112 section 3.2.2 says, with a query and without."""
    (answer,) = answers(edge.exchange(LAST.replace(b"/last", target)))
    assert (json.loads(answer.body)["path"], json.loads(answer.body)["query"]) == (
        "/",
        target.partition(b"?")[2].decode(),
    )


def test_a_query_in_utf_8_is_percent_encoded(edge: Running) -> None:
    """Browsers and curl send what was typed; the application gets ASCII."""
    (answer,) = answers(edge.exchange(LAST.replace(b"/last", "/last?q=zür%20ich".encode())))
    assert json.loads(answer.body)["query"] == "q=z%C3%BCr%20ich"


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 100_000, b"x" * 5 * MIB])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_arrives_whole(edge: Running, body: bytes, chunked: bool) -> None:
    """The application reads what was sent."""
    if chunked:
        parts = [body[start : start + 65_000] for start in range(0, len(body), 65_000)]
        sent = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    else:
        sent = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert answers(edge.exchange(sent + LAST))[0].body == body


def seen(edge: Running, headers: bytes) -> list[list[str]]:
    """The headers that reach the application."""
    answer = answers(edge.exchange(GET + headers + b"Connection: close, X-Hop\r\n\r\n"))[0]
    return list(json.loads(answer.body)["headers"])


def test_headers_arrive_in_order_with_duplicates(edge: Running) -> None:
    """Names in lower case, values as sent."""
    assert seen(edge, b"X-A: 1\r\nB:\t2 \r\nx-a: 3\r\n") == [
        ["host", "a"],
        ["x-a", "1"],
        ["b", "2"],
        ["x-a", "3"],
    ]


def test_hop_by_hop_headers_and_names_with_underscores_stop_at_the_edge(edge: Running) -> None:
    """They are the connection's, or could be taken for another header."""
    hops = b"Keep-Alive: 1\r\nProxy-Authorization: x\r\nProxy: x\r\nTE: trailers\r\nTrailer: X\r\nX-Hop: x\r\n"
    assert seen(edge, hops + b"X_A: b\r\n") == [["host", "a"]]


def test_trailers_never_become_headers(edge: Running) -> None:
    """They are counted and dropped."""
    sent = CHUNKED.replace(b"/read", b"/x") + b"0\r\nX-Late: y\r\n\r\n"
    answer = answers(edge.exchange(sent + LAST))[0]
    assert "x-late" not in answer.body.decode()


FORWARDING = (
    b"X-Forwarded-For: 9.9.9.9, 8.8.8.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nForwarded: for=1\r\n"
)


def test_forwarding_headers_of_a_stranger_are_dropped(edge: Running) -> None:
    """D05, D07: client and scheme are the socket's, and nobody behind can be misled either."""
    scope = json.loads(answers(edge.exchange(LAST[:-2] + FORWARDING + END))[0].body)
    assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")
    assert [name for name, _ in scope["headers"]] == ["host"]


def test_forwarding_headers_of_a_trusted_proxy_are_believed() -> None:
    """Its rightmost address that is not trusted itself is the client."""
    with running(trusted_proxies=["127.0.0.1/8"]) as edge:
        scope = json.loads(answers(edge.exchange(LAST[:-2] + FORWARDING + END))[0].body)
    assert (scope["client"], scope["scheme"]) == (["8.8.8.8", 0], "https")
    assert ["x-forwarded-host", "b"] in scope["headers"]


def test_a_client_cannot_remove_what_a_trusted_proxy_tells_of_it() -> None:
    """Some proxies pass the client's options of the connection on, and add their own fields."""
    options = b"Connection: close, X-Forwarded-For, x-forwarded-proto, X-Forwarded-Host, Forwarded\r\n"
    sent = b"GET /last HTTP/1.1\r\nHost: a\r\n" + options + FORWARDING + END
    with running(trusted_proxies=["127.0.0.1"]) as edge:
        scope = json.loads(answers(edge.exchange(sent))[0].body)
    assert (scope["client"], scope["scheme"]) == (["8.8.8.8", 0], "https")
    assert {"x-forwarded-host", "forwarded"} < {name for name, _ in scope["headers"]}


def test_garbage_from_a_trusted_proxy_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """D06: the client is the proxy then; the warning holds nothing of what was sent."""
    sent = LAST[:-2] + b"X-Forwarded-For: 9.9.9.9, forged\r\nX-Forwarded-Proto: javascript\r\n" + END
    with running(trusted_proxies=["127.0.0.1"]) as edge:
        for _ in range(2):
            scope = json.loads(answers(edge.exchange(sent))[0].body)
            assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")
    assert len(caplog.records) == 1
    assert "forged" not in caplog.text


def test_a_path_is_decoded_once(edge: Running) -> None:
    """A percent sign that was escaped stays one."""
    answer = answers(edge.exchange(LAST.replace(b"/last", b"/a%2Fb%252e//c?d=%zz")))[0]
    scope = json.loads(answer.body)
    assert (scope["path"], scope["query"]) == ("/a/b%2e//c", "d=%zz")


def test_100_continue_comes_when_the_application_reads(edge: Running) -> None:
    """A client that asks is told to send its body."""
    with edge.client() as client:
        client.sendall(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert answers(read_all(client))[0].body == b"abc"


# What the application may answer


def test_clients_that_send_tiny_chunks_do_not_hold_up_others(edge: Running) -> None:
    """Each client has its turns: their bodies arrive whole, and requests are answered meanwhile."""
    size = 60_000
    head = b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    upload = head + b"1\r\nx\r\n" * size + b"0\r\n\r\n"
    with ThreadPoolExecutor(8) as clients:
        bodies = [clients.submit(edge.exchange, upload) for _ in range(8)]
        answered = 0
        while not all(body.done() for body in bodies):
            assert statuses(edge.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")) == [200]
            answered += 1
    assert answered
    for body in bodies:
        (answer,) = answers(body.result(), b"POST")
        assert (answer.status, answer.body) == (200, b"x" * size)


def test_an_answer_without_a_length_is_chunked(edge: Running) -> None:
    """The connection stays usable."""
    first, _ = answers(edge.exchange(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + LAST))
    assert first.body == b"part" * 3


def test_an_answer_without_a_length_to_http_1_0_ends_with_the_connection(edge: Running) -> None:
    """HTTP/1.0 knows no chunks."""
    received = edge.exchange(b"GET /stream HTTP/1.0\r\n\r\n")
    assert received.endswith(b"\r\n\r\npartpartpart")


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_a_status_without_a_body_has_none(edge: Running, status: bytes) -> None:
    """What the application sends is dropped, and the next answer is unaffected."""
    sent = b"GET /with_body?" + status + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert statuses(edge.exchange(sent + LAST)) == [int(status), 200]


def test_head_has_no_body(edge: Running) -> None:
    """The length of what GET would answer is kept."""
    head, get = answers(edge.exchange(b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n" + LAST), b"HEAD")
    assert (head.body, int(head.headers[b"content-length"]) > 0, get.status) == (b"", True, 200)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HEAD /fails HTTP/1.1\r\nHost: a\r\n\r\n", b"500"),
        (b"HEAD /bad_header HTTP/1.1\r\nHost: a\r\n\r\n", b"500"),
        (b"HEAD /x HTTP/1.1\r\n\r\n", b"400"),
        (b"\r\nHEAD /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"HEAD /" + b"a" * 9000, b"414"),
        (b"HEAD /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", b"413"),
    ],
)
def test_a_refusal_of_head_has_no_body(edge: Running, sent: bytes, status: bytes) -> None:
    """It has the length of what GET would get."""
    head, _, rest = edge.exchange(sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"content-length: 1" in head
    assert rest == b""


@pytest.mark.parametrize("status", [102, 103, 123, 199])
def test_an_odd_status_goes_out_as_given_and_closes(edge: Running, status: int) -> None:
    """A client sees the status and no body."""
    received = edge.exchange(b"GET /with_body?%d HTTP/1.1\r\nHost: a\r\n\r\n" % status + LAST)
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close" in head
    assert (rest, b"length" in head, b"chunked" in head) == (b"", False, False)


@pytest.mark.parametrize("path", [b"99", b"600", b"100", b"101", b"bad_header", b"bad_type", b"two_lengths", b"fails"])
def test_an_impossible_answer_is_a_500(edge: Running, path: bytes) -> None:
    """The client learns nothing of the reason, and nothing it could take for a second answer."""
    (answer,) = answers(edge.exchange(b"GET /" + path + b" HTTP/1.1\r\nHost: a\r\n\r\n" + LAST))
    assert answer.status == 500
    assert b"secret" not in answer.body + b"".join(answer.headers)


def test_an_answer_that_fails_has_the_id_of_its_request(edge: Running) -> None:
    """As every answer has."""
    (answer,) = answers(edge.exchange(b"GET /fails HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n"))
    assert (answer.status, answer.headers[b"x-request-id"]) == (500, b"mine")


def test_an_application_that_fails_halfway_is_cut_off(edge: Running) -> None:
    """There is no final chunk that would make the answer look whole."""
    received = edge.exchange(b"GET /fails_late HTTP/1.1\r\nHost: a\r\n\r\n" + LAST)
    assert not received.endswith(b"0\r\n\r\n")
    assert received.count(b"HTTP/1.1") <= 1


def test_a_body_longer_than_declared_is_cut(edge: Running) -> None:
    """What is too much never reaches the client, who would read it as the next answer."""
    first, second = answers(edge.exchange(b"GET /longer HTTP/1.1\r\nHost: a\r\n\r\n" + LAST))
    assert (first.body, second.status) == (b"ab", 200)


def test_hop_by_hop_headers_of_the_application_are_dropped(edge: Running) -> None:
    """Framing is the edge's; other headers keep order and duplicates."""
    received = edge.exchange(b"GET /hops HTTP/1.1\r\nHost: a\r\n\r\n" + LAST)
    assert b"\r\nx-a: 1\r\nx-a: 2\r\n" in received
    assert statuses(received) == [200, 200]
    assert not any(name in received for name in (b"keep-alive", b"upgrade", b"gzip"))


# Slow clients, and clients that leave


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHo",
        CHUNKED + b"1\r\nx\r\n0\r\n",
        POST + b"Content-Length: 5\r\n\r\nab",
        b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["nothing", "half a head", "unfinished chunks", "unfinished body", "idle"],
)
def test_a_client_that_stops_sending_is_closed(hasty: Running, data: bytes) -> None:
    """Nobody holds a connection by saying nothing."""
    received = hasty.exchange(data)
    assert received == b"" or received.endswith(b"0\r\n\r\n")


def test_a_client_that_takes_nothing_is_aborted(hasty: Running) -> None:
    """Its answer is produced no further than the buffers reach, and its request is cancelled."""
    hasty.app.left.clear()
    with hasty.client() as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert hasty.app.left.wait(30)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_slow_client_gets_the_end_of_its_answer(version: bytes) -> None:
    """The deadlines of an idle connection and of its closing leave alone what the client is still taking."""
    body = b"x" * 12 * MIB
    with running(keep_alive_timeout_s=0.2, header_timeout_s=2) as edge, edge.client() as client, edge.client() as clock:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(POST.replace(b"1.1", version) + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        received = client.recv(1000)
        read_all(clock)  # which the server closes after two seconds
        received += read_all(client)
    assert answers(received)[0].body == body


@pytest.mark.parametrize(("rate", "ends"), [(1 << 30, True), (0, False)])
def test_an_upload_below_the_least_rate_is_cut_off(rate: int, ends: bool) -> None:
    """It comes without a pause, but too slowly."""
    with running(body_timeout_s=1.5, min_body_rate=rate) as edge, edge.client() as client:
        edge.app.left.clear()
        client.sendall(POST + b"Content-Length: 100000\r\n\r\n")
        for _ in range(100):  # longer than a pause may last, which a busy machine must not make of two of them
            with contextlib.suppress(OSError):
                client.send(b"x")
            if edge.app.left.wait(0.02):
                break
        assert edge.app.left.is_set() == ends or (ends and edge.app.left.wait(20))


def test_a_client_that_takes_its_answer_below_the_least_rate_is_cut_off() -> None:
    """It reads on and on, but too slowly."""
    with running(write_timeout_s=0.3, min_answer_rate=1 << 30) as edge, edge.client() as client:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(256):
                received = piece
                edge.app.left.wait(0.001)
        assert not received.endswith(b"0\r\n\r\n")


def test_a_body_that_waits_for_its_turn_unread_does_not_stop_the_next_request() -> None:
    """The application answers between two turns; afterwards the connection reads on."""
    body = (b"3e8\r\n" + b"x" * 1000 + b"\r\n") * 192 + b"0\r\n\r\n"  # takes one turn, but for the end
    sent = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    with running(max_body_bytes=200_000) as edge, edge.client() as client:
        wait_until(lambda: edge.server._state.connections)
        (connection,) = edge.server._state.connections

        async def receive() -> None:
            connection.data_received(sent)  # in one read, which a socket does not promise

        edge.call(receive())
        client.sendall(LAST)
        assert statuses(read_all(client)) == [200, 200]


def test_an_upload_that_nobody_reads_ends_after_the_answer(edge: Running) -> None:
    """What follows it is no request."""
    sent = GET + b"Content-Length: 16000000\r\n\r\n" + b"x" * 16_000_000
    assert statuses(edge.exchange(sent + LAST)) == [200]


def test_a_half_closed_client_is_answered(edge: Running) -> None:
    """Ending one's own side is no goodbye."""
    with edge.client() as client:
        client.sendall(GET + END + b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert statuses(read_all(client)) == [200, 200]


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_client_that_leaves_is_noticed(reset: bool) -> None:
    """The application is told while it works, whichever way the connection ended."""
    with running() as edge:
        client = edge.client()
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert edge.app.started.wait(30)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert edge.app.left.wait(30)


def test_a_client_that_leaves_a_stream_is_noticed(edge: Running) -> None:
    """An endless answer ends."""
    edge.app.left.clear()
    with edge.client() as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        client.recv(1000)
    assert edge.app.left.wait(30)


def test_a_client_that_leaves_its_upload_is_noticed(edge: Running) -> None:
    """A body that never ends is no body."""
    edge.app.left.clear()
    with edge.client() as client:
        client.sendall(POST + b"Content-Length: 5\r\n\r\nab")
    assert edge.app.left.wait(30)


# The connection limit


def test_at_the_limit_connections_wait_until_one_closes() -> None:
    """They are neither refused nor reset."""
    with running(max_connections=2) as edge, edge.client() as first, edge.client() as second:
        for client in (first, second):
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            assert edge.app.started.wait(30)
            edge.app.started.clear()
        with edge.client() as third:
            third.sendall(LAST)
            third.settimeout(0.3)
            with pytest.raises(TimeoutError):
                third.recv(1)
            third.settimeout(10)
            edge.loop.call_soon_threadsafe(edge.app.go.set)
            assert statuses(read_all(third)) == [200]
        (answer,) = answers(read_all(first))  # whose place was wanted
        assert (answer.body, answer.headers[b"connection"]) == (b"waited", b"close")


def test_at_the_limit_idle_connections_make_room() -> None:
    """Nobody keeps others out by saying nothing."""
    with running(max_connections=2, keep_alive_timeout_s=600) as edge, edge.client() as idle:
        idle.sendall(GET + END)
        assert b"\r\nconnection: close" not in idle.recv(4096)
        with edge.client() as busy:
            busy.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            assert edge.app.started.wait(30)
            assert statuses(edge.exchange(LAST)) == [200]


# Start and end


def start(**options: Any) -> str:
    """Start and stop a server; return its URL."""

    async def once() -> str:
        server = HttpServer(Application(), HTTPOptions(**options))
        try:
            return await server.start()
        finally:
            await server.stop()

    return asyncio.run(once())


@pytest.mark.parametrize("host", ["999.1.1.1", "no-such-host.invalid", "192.0.2.1", "a..b"])
def test_an_unusable_host_is_a_value_error(host: str) -> None:
    """The message names host and port."""
    with pytest.raises(ValueError, match=f"{host}:0"):
        start(host=host, port=0)


def test_a_taken_port_is_an_os_error() -> None:
    """The message names host and port, and no port is ever shared."""
    with running() as edge:
        port = edge.address[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}") as caught:
            start(port=port)
    assert caught.value.errno == errno.EADDRINUSE
    assert [way in str(caught.value) for way in ("{'port': 0}", "{'location': None}")] == [True, True]


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]")])
def test_port_0_picks_a_port(host: str, shown: str) -> None:
    """The URL names it."""
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 loopback here")
    assert start(host=host, port=0).startswith(f"http://{shown}:")


def test_a_port_is_free_again_after_stop() -> None:
    """A restart on the same port works at once, with connections left behind."""
    port = free_port()
    with running(port=port) as edge:
        client = edge.client()
        client.sendall(GET + END)
        client.recv(4096)
    with client:
        assert start(port=port) == f"http://127.0.0.1:{port}"


def test_stop_twice_is_once() -> None:
    """The second has nothing to do."""
    with running() as edge:
        edge.call(edge.server.stop())
        edge.call(edge.server.stop())


def test_drain_answers_what_is_in_flight_and_closes() -> None:
    """The answer announces the end; a new connection is refused."""
    with running() as edge, edge.client() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert edge.app.started.wait(30)
        draining = asyncio.run_coroutine_threadsafe(edge.server.drain(10), edge.loop)
        wait_until_refused(edge)
        edge.loop.call_soon_threadsafe(edge.app.go.set)
        (answer,) = answers(read_all(client))
        assert (answer.body, answer.headers[b"connection"]) == (b"waited", b"close")
        draining.result(30)


def test_drain_serves_a_request_that_crosses_with_it() -> None:
    """An idle connection gets a short grace."""
    with running() as edge, edge.client() as client:
        client.sendall(GET + END)
        client.recv(4096)
        draining = asyncio.run_coroutine_threadsafe(edge.server.drain(10, idle_grace_s=5), edge.loop)
        wait_until_refused(edge)
        client.sendall(GET + END)
        (answer,) = answers(read_all(client))
        assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
        draining.result(30)


def test_drain_serves_what_the_kernel_accepted() -> None:
    """Connections that wait at the limit are answered before the listener closes."""
    with running(max_connections=1) as edge, edge.client() as idle, edge.client() as waiting:
        idle.sendall(GET + END)
        idle.recv(4096)
        waiting.sendall(GET + END)
        edge.call(edge.server.drain(5))
        assert statuses(read_all(waiting)) == [200]


def test_drain_ends_with_its_grace() -> None:
    """A request that does not end is left to `stop`."""
    with running() as edge, edge.client() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert edge.app.started.wait(30)
        edge.call(edge.server.drain(0.05))
        assert edge.server.url


# WebSockets


def test_a_websocket_echoes(edge: Running) -> None:
    """After the handshake the WebSocket protocol takes over."""
    with connect(f"ws://127.0.0.1:{edge.address[1]}/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv(10) == "hello"


@pytest.mark.parametrize(
    ("line", "key", "version", "status"),
    [
        (b"GET /ws HTTP/1.1", [b"dGhlIHNhbXBsZSBub25jZQ=="], b"13", b"101"),
        (b"GET /ws HTTP/1.1", [], b"13", b"400"),
        (b"GET /ws HTTP/1.1", [b"dGhlIHNhbXBsZSBub25jZQ=="] * 2, b"13", b"400"),
        (b"GET /ws HTTP/1.1", [b"short"], b"13", b"400"),
        (b"GET /ws HTTP/1.0", [b"dGhlIHNhbXBsZSBub25jZQ=="], b"13", b"400"),
        (b"POST /ws HTTP/1.1", [b"dGhlIHNhbXBsZSBub25jZQ=="], b"13", b"400"),
        (b"GET /ws HTTP/1.1", [b"dGhlIHNhbXBsZSBub25jZQ=="], b"12", b"426"),
    ],
)
def test_a_handshake_is_answered_by_what_is_wrong_with_it(
    edge: Running, line: bytes, key: list[bytes], version: bytes, status: bytes
) -> None:
    """A client of another version learns which one is spoken."""
    keys = [b"Sec-WebSocket-Key: " + value for value in key]
    fields = [line, b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: " + version]
    with edge.client() as client:
        client.sendall(b"\r\n".join([*fields, *keys, b"", b""]))
        answer = client.recv(65536)
    assert answer.split(b" ")[1] == status
    assert (b"sec-websocket-version: 13" in answer.lower()) is (status == b"426")


def test_data_in_the_packet_of_the_handshake_is_not_lost(edge: Running) -> None:
    """What follows the handshake belongs to the WebSocket."""
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with edge.client() as client:
        client.sendall(handshake + b"\x81\x82\0\0\0\0hi")
        received = b""
        while not received.endswith(b"\x81\x02hi"):
            received += client.recv(4096)


def test_a_websocket_behind_an_unsent_answer_waits() -> None:
    """The client has not taken the answer, which is no fault of the WebSocket, and slows its messages down."""
    with running() as edge, edge.client() as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" + handshake("/ws") + frame(TEXT, b"hi"))

        def upgraded() -> WebSocketConnection | None:
            found = list(edge.server._state.connections)
            return next((each for each in found if isinstance(each, WebSocketConnection)), None)

        websocket = wait_until(upgraded)

        async def is_writable() -> bool:
            websocket.sweep(edge.loop.time(), 1.0)
            return websocket.writable.is_set()

        assert not edge.call(is_writable())
        received = b""
        while not received.endswith(b"\x81\x02hi"):
            piece = client.recv(MIB)
            assert piece
            received = received[-1000:] + piece
        assert b"HTTP/1.1 101 " in received


def test_a_websocket_whose_client_takes_nothing_is_cut_off() -> None:
    """As an answer over HTTP: the write time-out holds for it too."""
    message = b"\x81\xff" + (2 * MIB).to_bytes(8) + bytes(4 + 2 * MIB)
    with running(write_timeout_s=0.2) as edge, edge.client() as client:
        client.sendall(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with contextlib.suppress(OSError):  # it is cut off in the middle of this
            for _ in range(16):  # more than the kernel's buffers take
                client.sendall(message)
        assert edge.app.left.wait(30)


def test_drain_tells_websockets_to_come_back() -> None:
    """1012: the service restarts."""
    with running() as edge, connect(f"ws://127.0.0.1:{edge.address[1]}/ws") as websocket:
        websocket.send("hello")
        websocket.recv(10)
        edge.call(edge.server.drain(5))
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
