"""Bad requests to a proxy with backends behind it, each under an id of its own.

Every row is bytes on a connection of its own. Whatever comes back is read by h11, names nothing of the inside, and a
new connection is served afterwards.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.edge_server import Answer, answers, read_all

MIB = 1024 * 1024
INSIDE = (b"Traceback", b'File "', b".py", b"serve_bridge", b"/tmp/", b".sock", b"replica", b"Error:")


async def echo(request: Any) -> dict[str, Any]:
    """Show what arrived."""
    body = await request.body()
    return {
        "path": request.url.path,
        "params": {name: str(value) for name, value in request.path_params.items()},
        "query": request.query_params.multi_items(),
        "headers": [[name, value] for name, value in request.headers.items()],
        "client": request.client.host,
        "scheme": request.url.scheme,
        "body": len(body),
    }


class Data:
    """Methods that take data, which the engine parses."""

    def __call__(self, request: Any) -> str:
        """Be the default."""
        return "called"

    def take(self, data: Any = None) -> str:
        """Say what came."""
        return f"{type(data).__name__} {ascii(data)[:100]}"

    def _hidden(self, data: Any = None) -> str:
        return "hidden"


async def form(request: Any) -> str:
    """Read a form."""
    async with request.form() as fields:
        return str(len(fields))


async def parsed(request: Any) -> str:
    """Read JSON in user code."""
    return type(await request.json()).__name__


@dataclass(frozen=True)
class Proxy:
    """Where requests go."""

    client: serve.Client
    address: tuple[str, int]

    def exchange(self, data: bytes) -> bytes:
        """Send bytes on a new connection and read until the proxy closes it."""
        with socket.create_connection(self.address) as client:
            client.settimeout(20)
            with contextlib.suppress(ConnectionError):  # it may refuse before it has read everything
                client.sendall(data)
            return read_all(client)

    def answers(self, data: bytes, *methods: bytes) -> list[Answer]:
        """Send bytes; return what h11 reads from what comes back, which must tell nothing of the inside."""
        received = self.exchange(data)
        assert not any(word in received for word in INSIDE), received[:2000]
        return answers(received, *methods)


@pytest.fixture(scope="module")
def running() -> Iterator[Proxy]:
    """An instance with one endpoint a route."""
    client = serve.start(runtime="local", name="edge-requests", http_options={"port": 0, "allowed_hosts": ["*"]})
    client.create_backend("echo", echo)
    for code in (Data, form, parsed):
        client.create_backend(code.__name__, code)
    routes = {
        "/echo": "echo",
        "/api": "echo",
        "/api/{x}": "echo",
        "/int/{id:int}": "echo",
        "/uuid/{u:uuid}": "echo",
        "/path/{p:path}": "echo",
        "/odd/{request}/{self}/{scope}": "echo",
        "/data": "Data",
        "/form": "form",
        "/json": "parsed",
    }
    for number, (route, backend) in enumerate(routes.items()):
        client.create_endpoint(f"e{number}", backend=backend, route=route, methods=["GET", "POST"])
    host, _, port = client.http_urls[0].removeprefix("http://").rpartition(":")
    yield Proxy(client, (host, int(port)))
    client.shutdown()


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    """The instance; whatever a test sends, the next connection is served."""
    yield running
    assert [answer.status for answer in running.answers(get("/echo"))] == [200]


def request(
    method: str, target: str, *headers: str, body: bytes | None = None, close: bool = True, host: bool = True
) -> bytes:
    """Return the bytes of a request, which asks for the end of the connection."""
    lines = [f"{method} {target} HTTP/1.1", *(["Host: a"] if host else []), *headers]
    lines += ["Connection: close"] if close else []
    lines += [f"Content-Length: {len(body)}"] if body is not None else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def get(target: str, *headers: str) -> bytes:
    """Return the bytes of a GET."""
    return request("GET", target, *headers)


def post(target: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of a POST."""
    return request("POST", target, *headers, body=body)


def call(body: bytes, content_type: str = "application/json") -> bytes:
    """Return the bytes of a call of the method that takes parsed data."""
    return post("/data", body, f"Content-Type: {content_type}", "X-Serve-Call-Method: take")


MULTIPART = "multipart/form-data; boundary=xx"

STATUSES: dict[str, tuple[bytes, set[int]]] = {
    # Request line and framing
    "H16 lower case": (b"GET /echo http/1.1\r\nHost: a\r\n\r\n", {400, 505}),
    "H17 M-SEARCH": (request("M-SEARCH", "/echo"), {400, 405, 501}),
    "H17 SOURCE": (request("SOURCE", "/echo"), {400, 405, 501}),
    "H17 DELETE is not listed": (request("DELETE", "/echo"), {405}),
    "H19 OPTIONS *": (request("OPTIONS", "*"), {200, 204}),
    "H19 absolute form": (request("GET", "http://a/echo"), {200}),
    "H28 listed Host": (get("/echo", "Connection: host"), {200}),
    "H28 Keep-Alive": (get("/echo", "Keep-Alive: timeout=99999999"), {200}),
    # Headers
    "D03 5,000 copies": (get("/echo", *["A: b"] * 5_000), {431}),
    "D11 not decoded": (post("/echo", b"\x1f\x8b" + bytes(1000), "Content-Encoding: gzip"), {200}),
    # Routing
    "R03 slash behind": (get("/echo/"), {404}),
    "R03 two slashes": (get("//echo"), {404}),
    "R03 two slashes within": (get("/api//x"), {404}),
    "R03 dot": (get("/./echo"), {404}),
    "R03 dots": (get("/a/../echo"), {404}),
    "R04 dots escaped": (get("/%2e%2e%2fecho"), {404}),
    "R04 slash in a segment": (get("/api/a%2Fb"), {404}),
    "R04 bad UTF-8": (get("/api/%C0%AF"), {200, 400, 404}),
    "R04 escaped twice": (get("/api/%252e"), {200}),
    "R04 line end": (get("/path/a%0D%0Ab"), {404}),  # Starlette's path converter takes none
    "R04 letters": (get("/%65cho"), {200}),
    "R06 2,000 segments": (get("/a" * 2_000), {404}),
    "R06 path of 1 MB": (get("/" + "a" * MIB), {414}),
    "R07 PUT on routes": (request("PUT", "/-/routes"), {405}),
    "R07 DELETE on ready": (request("DELETE", "/-/ready"), {405}),
    "R07 unknown": (get("/-/x"), {404}),
    "R07 OPTIONS on unknown": (request("OPTIONS", "/-/x"), {404, 405}),
    "R07 the prefix escaped": (get("/%2d/hack"), {404}),
    "R12 query of 1 MB": (get("/echo?" + "a" * MIB), {414}),
    "R12 odd queries": (get("/echo?a[]=1&a[]=2&;&&=&%zz&b"), {200}),
    "R12 1,000 keys": (get("/echo?" + "&".join(f"k{n}" for n in range(1_000))), {200}),
    "R15 upper case": (get("/ECHO"), {404}),
    # Path parameters
    "Q02 5,000 digits": (get("/int/" + "9" * 5_000), {400, 404}),
    "Q02 no digits": (get("/int/x"), {404}),
    "Q02 negative": (get("/int/-1"), {404}),
    "Q04 short": (get("/uuid/" + "0" * 31), {404}),
    "Q04 braces": (get("/uuid/{" + "0" * 32 + "}"), {404}),
    "Q04 upper case": (get("/uuid/AAAAAAAA-AAAA-AAAA-AAAA-AAAAAAAAAAAA"), {200}),
    "Q05 empty": (get("/path/"), {200}),
    "Q05 64 KiB": (get("/path/" + "a" * 65536), {414}),
    "Q08 names of Python": (get("/odd/1/2/3"), {200}),
    # Bodies: where the engine parses
    "B01 empty": (call(b""), {200}),
    "B01 brace": (call(b"{"), {400}),
    "B01 trailing comma": (call(b'{"a":1,}'), {400}),
    "B01 two documents": (call(b"1 2"), {400}),
    "B01 BOM": (call(b"\xef\xbb\xbf1"), {200, 400}),
    "B01 UTF-16": (call("[1]".encode("utf-16")), {200, 400}),
    "B01 bad UTF-8": (call(b'"\xff"'), {400}),
    "B01 NUL": (call(b"\0"), {400}),
    "B01 NUL in text": (call(b'"\0"'), {400}),
    "B01 lone surrogate": (call(b'"\\ud800"'), {200, 400}),
    "B02 100,000 deep": (call(b"[" * 100_000), {400}),
    "B02 100,000 deep, closed": (call(b"[" * 100_000 + b"]" * 100_000), {400}),
    "B03 NaN": (call(b"NaN"), {200, 400}),
    "B03 Infinity": (call(b"[Infinity]"), {200, 400}),
    "B03 1e400": (call(b"1e400"), {200, 400}),
    "B03 a million digits": (call(b"1" * 1_000_000), {400}),
    "B03 no JSON type": (call(b"{", "text/plain"), {200}),
    "B03 odd type": (call(b"{", ";;;"), {200}),
    # Bodies: where user code parses with Starlette's request
    "B01 in user code": (post("/json", b"{"), {400, 500}),
    "B02 in user code": (post("/json", b"[" * 100_000), {400, 500}),
    "B07 no boundary": (post("/form", b"x", "Content-Type: multipart/form-data"), {400}),
    "B07 boundary of 60 KiB": (
        post("/form", b"x", "Content-Type: multipart/form-data; boundary=" + "b" * 60_000),
        {400},
    ),
    "B07 boundary of 70 KiB": (
        post("/form", b"x", "Content-Type: multipart/form-data; boundary=" + "b" * 70_000),
        {431},
    ),
    "B07 no end": (
        post("/form", b'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\nvalue', f"Content-Type: {MULTIPART}"),
        {200, 400},
    ),
    "B07 100,000 parts": (
        post(
            "/form",
            b'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 100_000 + b"--xx--\r\n",
            f"Content-Type: {MULTIPART}",
        ),
        {400, 413},
    ),
    "B07 part header of 1 MB": (
        post("/form", b"--xx\r\nA: " + b"a" * MIB + b"\r\n\r\n1\r\n--xx--\r\n", f"Content-Type: {MULTIPART}"),
        {200, 400, 413},
    ),
    "B07 filename": (
        post(
            "/form",
            b'--xx\r\nContent-Disposition: form-data; name="a"; filename="../../x"\r\n\r\n1\r\n--xx--\r\n',
            f"Content-Type: {MULTIPART}",
        ),
        {200},
    ),
    "B08 a million fields": (
        post("/form", b"a=1&" * 1_000_000, "Content-Type: application/x-www-form-urlencoded"),
        {400, 413},
    ),
    # Control headers
    **{
        f"C01 {name}": (get("/data", f"X-Serve-Call-Method: {name}"), {404})
        for name in ("__init__", "__class__", "__del__", "__reduce__", "__dict__", "__getattribute__", "_hidden")
    },
    "C01 __call__": (get("/data", "X-Serve-Call-Method: __call__"), {200}),
    "C03 unknown": (get("/data", "X-Serve-Call-Method: missing"), {404}),
    "C03 empty": (get("/data", "X-Serve-Call-Method:"), {400}),
    "C03 1 MB": (get("/data", "X-Serve-Call-Method: " + "a" * MIB), {431}),
    "C03 60 KiB": (get("/data", "X-Serve-Call-Method: " + "a" * 60_000), {404}),
    "C03 not ASCII": (get("/data", "X-Serve-Call-Method: t\xe4ke"), {400}),
    "C03 escaped line end": (get("/data", "X-Serve-Call-Method: take%0d%0aA: b"), {404}),
    "C04 twice": (get("/data", "X-Serve-Call-Method: take", "X-Serve-Call-Method: __call__"), {400}),
    "C04 shard key twice": (get("/echo", "X-Serve-Shard-Key: a", "X-Serve-Shard-Key: b"), {400}),
}


@pytest.mark.parametrize(("data", "wanted"), STATUSES.values(), ids=STATUSES)
def test_a_request_gets_its_status(proxy: Proxy, data: bytes, wanted: set[int]) -> None:
    """One answer, which a strict client can read, and the end of the connection."""
    (answer,) = proxy.answers(data)
    assert answer.status in wanted, answer
    if answer.status >= 400 and answer.status != 500:
        assert answer.headers[b"content-type"] in (b"application/problem+json", b"text/plain; charset=utf-8")


def seen(proxy: Proxy, *headers: str, target: str = "/echo") -> dict[str, Any]:
    """What reaches user code of a GET."""
    (answer,) = proxy.answers(get(target, *headers))
    shown: dict[str, Any] = json.loads(answer.body)
    return shown


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/path/a%2Fb", "a/b"),
        ("/path/%252e", "%2e"),
        ("/path/../../etc/passwd", "../../etc/passwd"),
        ("/path//", "/"),
    ],
    ids=["R04 slash", "R04 twice", "Q05 dots", "Q05 slashes"],
)
def test_a_path_parameter_is_decoded_once_and_otherwise_verbatim(proxy: Proxy, target: str, path: str) -> None:
    """R04, Q05."""
    assert seen(proxy, target=target)["params"] == {"p": path}


def test_a_query_keeps_its_order_and_repeats(proxy: Proxy) -> None:
    """R12."""
    assert seen(proxy, target="/echo?b=1&a[]=2&a[]=3&b=&=4&%zz")["query"] == [
        ["b", "1"],
        ["a[]", "2"],
        ["a[]", "3"],
        ["b", ""],
        ["", "4"],
        ["%zz", ""],
    ]


FORWARDED = (
    "X-Forwarded-For: 9.9.9.9",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Port: 1",
    'Forwarded: for=9.9.9.9;proto=https;host="evil',
)


def test_forwarding_headers_of_a_stranger_change_nothing(proxy: Proxy) -> None:
    """D05, D07: client and scheme are the socket's."""
    shown = seen(proxy, *FORWARDED)
    assert (shown["client"], shown["scheme"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize(
    "given",
    ["a" * 129, "a" * 60_000, "a%0d%0ab", "a b", "\xe4", "", "a, b"],
    ids=["129", "60,000", "line end", "space", "not ASCII", "empty", "comma"],
)
def test_a_request_id_that_is_none_is_replaced(proxy: Proxy, given: str) -> None:
    """D08: it is in the answer, and in log lines."""
    (answer,) = proxy.answers(get("/echo", f"X-Request-Id: {given}"))
    assert answer.headers[b"x-request-id"] not in (b"", given.encode("latin-1"))


def test_control_headers_reach_no_user_code(proxy: Proxy) -> None:
    """C08, C10: none of ours, none invented, whichever way they are spelt."""
    names = ("X-Serve-Admin", "x-serve-retry", "X-Serve-Model-Id", "X-SERVE-SHARD-KEY", "X_Serve_Call_Method")
    shown = seen(proxy, *(f"{name}: 1" for name in names))
    assert [name for name, _ in shown["headers"]] == ["host", "x-request-id"]


def test_a_name_with_an_underscore_is_dropped(proxy: Proxy) -> None:
    """D10: a WSGI server would take it for the name with a hyphen."""
    assert "content_length" not in dict(seen(proxy, "Content_Length: 5", "X_Request_Id: x")["headers"])


def test_a_miss_lists_no_name(proxy: Proxy) -> None:
    """C03: neither the methods that there are nor the one that was asked for."""
    (answer,) = proxy.answers(get("/data", "X-Serve-Call-Method: missing"))
    assert b"take" not in answer.body


def test_the_reserved_prefix_is_nobodys(proxy: Proxy) -> None:
    """R07: a route cannot be put there, and a catch-all does not get it."""
    with pytest.raises(ValueError, match="/-/"):
        proxy.client.create_endpoint("hack", backend="echo", route="/-/hack")
    proxy.client.create_endpoint("all", backend="echo", route="/{everything:path}", methods=["GET", "PUT"])
    try:
        assert [answer.status for answer in proxy.answers(request("PUT", "/-/hack"))] == [404]
        assert [answer.status for answer in proxy.answers(request("PUT", "/hack"))] == [200]
        for path in (
            "//-/hack",
            "///-/hack",
            "/./-/hack",
            "/a/../-/hack",
            "/%2d/hack",
            "/-%2fhack",
            "/%2F-/hack",
            "/-//hack",
        ):
            assert [answer.status for answer in proxy.answers(request("PUT", path))] == [404], path
        for path in ("/%2d/live", "/-%2flive"):  # the same path in another spelling
            assert [answer.body for answer in proxy.answers(get(path))] == [b"ok"], path
    finally:
        proxy.client.delete_endpoint("all")


@pytest.mark.parametrize("route", ["/{x:foo}", "/{a}/{a}", "/{x", "/{1x}", "/{x}}", "/{}", "/{x:}", "/{x:int:str}"])
def test_a_route_that_does_not_compile_poisons_nothing(proxy: Proxy, route: str) -> None:
    """Q06: the caller is told."""
    with pytest.raises(ValueError, match="route"):
        proxy.client.create_endpoint("q06", backend="echo", route=route)
    assert [answer.status for answer in proxy.answers(get("/-/routes"))] == [200]


@pytest.mark.parametrize("route", ["/q06/{x}{y}", "/q06/(a|b)+[c]*", "/q06/" + "a" * 5_000, "/q06/{x}.*{y:int}"])
def test_a_route_that_is_odd_is_matched_as_it_is_written(proxy: Proxy, route: str) -> None:
    """Q06: what is special in a regular expression is text."""
    proxy.client.create_endpoint("q06", backend="echo", route=route)
    try:
        target = route.replace("{x}", "1").replace("{y}", "2").replace("{y:int}", "3")
        assert [answer.status for answer in proxy.answers(get(target))] == [200]
        assert [answer.status for answer in proxy.answers(get("/q06/abc"))] in ([404], [200])
    finally:
        proxy.client.delete_endpoint("q06")


def test_the_first_created_of_two_routes_wins(proxy: Proxy) -> None:
    """R10: the same route twice is refused, with other methods, too."""
    with pytest.raises(ValueError, match="/echo"):
        proxy.client.create_endpoint("r10", backend="echo", route="/echo", methods=["PUT"])
    proxy.client.create_endpoint("r10", backend="Data", route="/api/{other}")
    try:
        assert "x" in seen(proxy, target="/api/1")["params"]
    finally:
        proxy.client.delete_endpoint("r10")


def test_a_route_that_is_deleted_is_never_anothers(proxy: Proxy) -> None:
    """R13: until it is gone it is answered, then it is a 404; one connection sees both."""
    proxy.client.create_endpoint("r13", backend="echo", route="/r13")
    with socket.create_connection(proxy.address) as client:
        client.settimeout(20)
        client.sendall(request("GET", "/r13", close=False))
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        proxy.client.delete_endpoint("r13")
        client.sendall(get("/r13"))
        (answer,) = answers(read_all(client))
    assert answer.status == 404


def test_pipelined_requests_are_answered_in_order(proxy: Proxy) -> None:
    """H23: 1,000 in one packet, each with its own answer."""
    sent = b"".join(request("GET", f"/int/{number}", close=False) for number in range(999)) + get("/int/999")
    found = [json.loads(answer.body)["params"]["id"] for answer in proxy.answers(sent)]
    assert found == [str(number) for number in range(1000)]


def test_a_valid_request_before_an_invalid_one_is_answered(proxy: Proxy) -> None:
    """H23: and what follows the invalid one is not read."""
    sent = request("GET", "/echo", close=False) + b"GET /echo\r\n\r\n" + get("/echo")
    assert [answer.status for answer in proxy.answers(sent)] == [200, 400]


@pytest.mark.parametrize("sent", ["declared", "chunked", "understated"])
def test_a_body_after_a_413_is_no_request(proxy: Proxy, sent: str) -> None:
    """B05: counted as it comes; what follows is never parsed as another request."""
    smuggled = get("/echo") * 10
    data = {
        "declared": request("POST", "/echo", "Content-Length: 67108864", close=False) + smuggled,
        "chunked": request("POST", "/echo", "Transfer-Encoding: chunked", close=False)
        + (b"100000\r\n" + b"x" * MIB + b"\r\n") * 17
        + smuggled,
        "understated": request("POST", "/echo", "Content-Length: 3", close=False) + b"x" * 100 + smuggled,
    }[sent]
    statuses = [answer.status for answer in proxy.answers(data)]
    assert statuses == ([200, 501] if sent == "understated" else [413])


@pytest.mark.parametrize("length", [b"5", b"500"], ids=["short", "long"])
def test_a_lying_length_harms_nobody_else(proxy: Proxy, length: bytes) -> None:
    """What is too little is no request; what is too much is the next one, and no good one."""
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\n"
    with socket.create_connection(proxy.address) as client:
        client.settimeout(20)
        client.sendall(head + b"x" * 50 + b"\r\n")
        client.shutdown(socket.SHUT_WR)
        statuses = [answer.status for answer in answers(read_all(client))]
    assert statuses == ([200, 400] if length == b"5" else [])


def test_a_body_of_one_byte_chunks_arrives_whole(proxy: Proxy) -> None:
    """S10."""
    count = 300_000
    sent = request("POST", "/echo", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    (answer,) = proxy.answers(sent)
    assert json.loads(answer.body)["body"] == count


def test_live_and_ready_answer_for_the_proxy(proxy: Proxy) -> None:
    """P35: live is live whatever runs; ready names what is not."""
    for path in ("/-/live", "/-/ready"):
        assert [answer.status for answer in proxy.answers(get(path))] == [200]
