"""The contract of fronts: what holds for everything that answers HTTP for endpoints, the proxy and every adapter.

Rule 1: everything goes over a real socket, by a real HTTP client, to a real replica; nothing is a mock, nothing sleeps.
Rule 2: a test holds for every front, or it needs something: what a front cannot do is said, with the reason, in
        `lacks`, and tests that need it are not collected.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import unquote

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from serve_bridge.adapters import RouteSpec
from serve_bridge.client.client import Client
from serve_bridge.client.handle import Handle
from serve_bridge.testing.raw_exchange import Exchange
from serve_bridge.testing.subject import PART, PARTS, Subject

SUBJECT: Final = "contract"
"""The endpoint of all routes but one, and its backend."""
SINGLE: Final = "contract-single"
"""Another one like it, whose backend runs one request at a time and lets one wait."""
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
PIECE: Final = b"0123456789abcdef" * 16 * 1024  # 256 KiB, more than anything on the way may hold back
LONG_BYTES: Final = 15 << 20
HELD_BYTES: Final = 12 << 20
"""What all on the way between client and backend may hold of a body that nobody takes: kernels hold most of it."""

ROUTES: Final = (
    *(
        RouteSpec(path, SUBJECT, METHODS)
        for path in (
            *("/echo", "/typed/{count:int}/{share:float}/{key:uuid}/{name}/{rest:path}", "/echo/{rest:path}"),
            *("/digest", "/form", "/answer", "/nothing", "/lines", "/gated", "/endless", "/hanging", "/upload"),
            *("/early", "/duplex", "/failing", "/broken", "/injecting", "/counted", "/paused", "/silent"),
            *("/mixed", "/buffered", "/large", "/mismatched", "/events"),
        )
    ),
    RouteSpec("/gets", SUBJECT, ("GET",)),
)
"""Without options, so that the proxy has them too."""

STREAMED_OR_NOT: Final = {"/lines": "no", "/buffered": "yes", "/echo": None, "/large": None}
"""What the answers say of buffering."""

CLAIMS: Final = {
    "x-forwarded-for": "10.9.8.7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "evil.example",
    "x-forwarded-prefix": "/evil",
    "x-real-ip": "10.9.8.7",
    "forwarded": "for=10.9.8.7;proto=https;host=evil.example",
}
"""Headers in which a client says where it comes from."""

NEEDS: Final[Mapping[str, str]] = {
    "chunked uploads": "bodies without a Content-Length, which wsgiref takes none of",
    "streamed uploads": "the body is forwarded while it comes",
    "duplex": "what there is of an answer leaves while more of the body is awaited, which takes two threads, or none",
    "early answers": "a refusal by the Content-Length, or an answer, leaves before the body has come",
    "early heads": "the head of an answer leaves before any of its body, which PEP 3333 forbids",
    "disconnects": "the server says that the client has left while the answer has not begun",
    "websockets": "the server hands over WebSockets",
}
"""What a test may need and a framework, or its interface, may lack."""

_Test = TypeVar("_Test", bound=Callable[..., None])


def needs(what: str) -> Callable[[_Test], _Test]:
    """Mark a test: it is there only for adapters that do not lack *what*, one of `NEEDS`."""
    if what not in NEEDS:
        raise ValueError(f"{what!r} is nothing a test may need; known: {', '.join(NEEDS)}")

    def mark(test: _Test) -> _Test:
        test.__dict__["_needs"] = what
        return test

    return mark


def deploy_subject(client: Client) -> None:
    """Create the contract's backends, an endpoint of each, and for the proxy an endpoint at each of the `ROUTES`."""
    client.create_backend(SUBJECT, Subject)
    client.create_endpoint(SUBJECT, backend=SUBJECT)
    client.create_backend(SINGLE, Subject, config={"max_concurrent_queries": 1, "max_queued_queries": 1})
    client.create_endpoint(SINGLE, backend=SINGLE)
    for number, route in enumerate(ROUTES):
        client.create_endpoint(
            f"{SUBJECT}-{number}", backend=SUBJECT, route=route.pattern, methods=route.methods or METHODS
        )


class FrontContract:
    """What holds for everything that answers HTTP for endpoints: the adapters, and the proxy.

    Attributes:
        lacks: What the front cannot do, of `NEEDS`, each with the reason; tests that need it are not collected.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @contextmanager
    def front(cls, client: Client) -> Iterator[str]:
        """Serve the `ROUTES`; yield the base URL."""
        raise NotImplementedError
        yield

    @classmethod
    def what_is_lacking(cls) -> frozenset[str]:
        """Return what the tests that are collected may not need."""
        return frozenset(cls.lacks)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take away the tests that need what the front lacks."""
        super().__init_subclass__(**kwargs)
        for unknown in cls.lacks.keys() - NEEDS.keys():
            raise ValueError(f"{cls.__name__}.lacks: {unknown!r} is nothing a test may need; known: {', '.join(NEEDS)}")
        lacking = cls.what_is_lacking()
        for name in dir(cls):
            if getattr(getattr(cls, name), "_needs", None) in lacking:
                setattr(cls, name, None)

    # the request

    @pytest.mark.parametrize("method", METHODS)
    def test_a_method_arrives(self, serve_bridge_http: httpx.Client, method: str) -> None:
        """Each that the route takes."""
        assert serve_bridge_http.request(method, "/echo").json()["method"] == method

    def test_a_method_that_the_route_does_not_take_is_refused(self, serve_bridge_http: httpx.Client) -> None:
        """By the framework, with 405; the backend is not asked."""
        assert serve_bridge_http.post("/gets").status_code == 405

    def test_path_parameters_arrive_typed(self, serve_bridge_http: httpx.Client) -> None:
        """As Starlette's converters would have them."""
        key = "0b7cb4c6-5ef5-4c0b-ba0a-4c2f9a4f0f0c"
        seen = serve_bridge_http.get(f"/typed/7/1.5/{key}/n/a/b").json()
        assert seen["params"] == {
            "count": ["int", "7"],
            "share": ["float", "1.5"],
            "key": ["UUID", key],
            "name": ["str", "n"],
            "rest": ["str", "a/b"],
        }

    def test_a_path_arrives_decoded(self, serve_bridge_http: httpx.Client) -> None:
        """Whatever its letters."""
        seen = serve_bridge_http.get("/echo/gr%C3%BC%C3%9Fe%20an/alle").json()
        assert seen["params"] == {"rest": ["str", "grüße an/alle"]}
        assert unquote(seen["path"]) == "/echo/grüße an/alle"

    @pytest.mark.parametrize("query", ["x=1&x=2&y=", "q=%C3%BC+a%26b", "flag", ""])
    def test_a_query_arrives_as_it_was_sent(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """With its repeats, in its order, byte for byte."""
        url = "/echo" + (f"?{query}" if query else "")
        assert serve_bridge_http.get(url).json()["query"] == query

    def test_headers_arrive(self, serve_bridge_http: httpx.Client) -> None:
        """Also what is not ASCII, as the Latin-1 it is on the wire."""
        given = [(b"x-mine", b"yes"), (b"x-latin", b"caf\xe9"), (b"content-type", b"text/x")]
        headers = dict(serve_bridge_http.get("/echo", headers=given).json()["headers"])
        assert (headers["x-mine"], headers["x-latin"], headers["content-type"]) == ("yes", "café", "text/x")

    def test_every_value_of_a_repeated_header_arrives(self, serve_bridge_http: httpx.Client) -> None:
        """In their order; as one header where the interface has joined them (RFC 9110 section 5.3)."""
        given = [("x-many", "1"), ("x-many", "2"), ("x-many", "3")]
        headers = serve_bridge_http.get("/echo", headers=given).json()["headers"]
        values = ",".join(value for name, value in headers if name == "x-many")
        assert values.replace(" ", "") == "1,2,3"

    def test_hop_by_hop_headers_stay(self, serve_bridge_http: httpx.Client) -> None:
        """They concern the client and this server. `Proxy` would become the variable HTTP_PROXY of a CGI program."""
        given = {"te": "trailers", "keep-alive": "timeout=5", "proxy": "http://evil", "proxy-connection": "close"}
        headers = dict(serve_bridge_http.get("/echo", headers=given).json()["headers"])
        assert not {*given, "connection", "transfer-encoding"} & headers.keys()

    def test_an_expectation_stays(self, serve_bridge_http: httpx.Client) -> None:
        """This server meets it, so the backend never sees the header `Expect`."""
        seen = serve_bridge_http.post("/echo", headers={"expect": "100-continue"}, content=b"body").json()
        assert seen["body"] == "body"
        assert "expect" not in dict(seen["headers"])

    def test_headers_that_connection_names_stay(self, serve_bridge_http: httpx.Client) -> None:
        """They concern this connection too; the framing and the host of a request do not."""
        given = {"connection": "close, X-Mine ,host,content-type", "X-Mine": "1", "x-other": "2", "content-type": "a/b"}
        headers = dict(serve_bridge_http.post("/echo", headers=given, content=b"x").json()["headers"])
        assert "x-mine" not in headers
        assert {"x-other", "host", "content-type"} <= headers.keys()

    def test_a_client_does_not_say_where_it_comes_from(self, serve_bridge_http: httpx.Client) -> None:
        """The server and the framework decide about scheme, host and client; the headers end there."""
        answer = serve_bridge_http.get("/echo", headers=CLAIMS)
        seen = answer.json()
        assert not CLAIMS.keys() & dict(seen["headers"]).keys()
        netloc = serve_bridge_http.base_url.netloc.decode()
        assert (seen["scheme"], seen["netloc"], seen["client"]) == ("http", netloc, "127.0.0.1")

    def test_header_names_with_an_underscore_stay(self, serve_bridge_http: httpx.Client) -> None:
        """WSGI and CGI cannot tell them from the names with a hyphen, which may be trusted."""
        given = {"x_forwarded_for": "10.9.8.7", "X_Serve_Executed": "no", "x-mine": "1"}
        names = {name for name, _ in serve_bridge_http.get("/echo", headers=given).json()["headers"]}
        assert not {name for name in names if "_" in name or name.startswith(("x-forwarded", "x-serve"))}
        assert "x-mine" in names

    def test_the_url_and_the_client_arrive(self, serve_bridge_http: httpx.Client) -> None:
        """Scheme, host and port as the client wrote them, and its address."""
        seen = serve_bridge_http.get("/echo").json()
        netloc = serve_bridge_http.base_url.netloc.decode()
        assert (seen["scheme"], seen["netloc"], seen["client"]) == ("http", netloc, "127.0.0.1")

    # its body

    def test_a_body_arrives(self, serve_bridge_http: httpx.Client) -> None:
        """With the request's head."""
        assert serve_bridge_http.post("/echo", content="grüße").json()["body"] == "grüße"

    def test_an_empty_body_is_none(self, serve_bridge_http: httpx.Client) -> None:
        """A POST need not have any."""
        assert serve_bridge_http.post("/echo", content=b"").json()["body"] == ""

    def test_a_long_body_arrives_whole(self, serve_bridge_http: httpx.Client) -> None:
        """Streamed, since it does not fit into the head."""
        body = PIECE * 12
        seen = serve_bridge_http.put("/digest", content=body).json()
        assert seen == {"size": len(body), "digest": hashlib.sha256(body).hexdigest()}

    @needs("chunked uploads")
    def test_a_body_of_unknown_length_arrives_whole(self, serve_bridge_http: httpx.Client) -> None:
        """In chunks as the client has it."""
        body = [b"1" * 10, PIECE, b"2" * 100_000]
        seen = serve_bridge_http.post("/digest", content=iter(body)).json()
        assert seen == {"size": sum(map(len, body)), "digest": hashlib.sha256(b"".join(body)).hexdigest()}

    def test_a_form_with_a_file_arrives(self, serve_bridge_http: httpx.Client) -> None:
        """As multipart, which nobody has parsed on the way."""
        file = ("f.txt", b"content", "text/plain")
        answer = serve_bridge_http.post("/form", data={"name": "n"}, files={"file": file})
        assert answer.json() == {"name": "n", "file": ["f.txt", "content"]}

    @needs("early answers")
    def test_an_answer_may_come_before_the_body(self, serve_bridge_front: str) -> None:
        """A backend need not read what it has no use for."""
        with Exchange(serve_bridge_front, "POST", "/early", [("content-length", str(len(PIECE) * 12))]) as exchange:
            exchange.send(PIECE)
            assert exchange.head().status_code == 202

    @needs("duplex")
    def test_a_client_that_waits_is_asked_for_its_body_when_the_backend_reads(self, serve_bridge_front: str) -> None:
        """With a 100 (Continue); an answer that needs no body comes without."""
        expecting = [("content-length", "4"), ("expect", "100-continue")]
        with Exchange(serve_bridge_front, "POST", "/early", expecting) as exchange:
            assert exchange.next_status() == 202
        with Exchange(serve_bridge_front, "POST", "/digest", expecting) as exchange:
            assert exchange.next_status() == 100
            exchange.send(b"body")
            assert exchange.next_status() == 200

    def test_body_and_answer_pass_at_the_same_time(self, serve_bridge_front: str) -> None:
        """A long body is answered, byte for byte, by a backend that keeps none of it."""
        length = len(PIECE) * 12
        with (
            Exchange(serve_bridge_front, "POST", "/duplex", [("content-length", str(length))]) as exchange,
            ThreadPoolExecutor(1) as sender,
        ):
            sent = sender.map(exchange.send, [PIECE] * 12)
            assert exchange.head().status_code == 200
            assert exchange.read_at_least(length) == PIECE * 12
            list(sent)

    @needs("duplex")
    def test_what_has_come_is_answered_while_more_is_awaited(self, serve_bridge_front: str) -> None:
        """The client may have to see it before it knows what to send next."""
        with Exchange(serve_bridge_front, "POST", "/duplex", [("content-length", str(len(PIECE) * 2))]) as exchange:
            exchange.send(PIECE)
            assert exchange.head().status_code == 200
            first = exchange.read_at_least(len(PIECE) // 4)
            assert PIECE.startswith(first)
            exchange.send(PIECE)
            assert first + exchange.read_at_least(len(PIECE) * 2 - len(first)) == PIECE * 2

    @needs("streamed uploads")
    def test_a_backend_that_does_not_read_pauses_the_client(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """What has not been taken stays with the client; once it is taken, all of it arrives."""
        gate = secrets.token_hex(8)
        length, sent = [("content-length", str(LONG_BYTES))], [0]

        def upload() -> None:
            for _ in range(LONG_BYTES // len(PIECE)):
                exchange.send(PIECE)
                sent[0] += len(PIECE)

        with (
            Exchange(serve_bridge_front, "POST", f"/paused?gate={gate}", length) as exchange,
            ThreadPoolExecutor(1) as sender,
        ):
            sending = sender.submit(upload)
            serve_bridge_subject.options(method_name="begun").call(gate)
            assert _at_rest(lambda: sent[0], serve_bridge_subject) <= HELD_BYTES
            serve_bridge_subject.options(method_name="open").call(gate)
            sending.result()
            assert exchange.head().status_code == 200
            assert json.loads(exchange.read_at_least(LONG_BYTES)) == {"size": LONG_BYTES}

    @needs("streamed uploads")
    def test_a_client_that_leaves_during_its_upload_ends_it(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """The backend does not wait for the rest, and the front goes on answering."""
        gate = secrets.token_hex(8)
        length = [("content-length", str(len(PIECE) * 2))]
        with Exchange(serve_bridge_front, "POST", f"/upload?gate={gate}", length) as exchange:
            exchange.send(PIECE)
            serve_bridge_subject.options(method_name="begun").call(gate)
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    # the answer

    def test_status_and_headers_come_back(self, serve_bridge_http: httpx.Client) -> None:
        """But no header of the engine's own."""
        answer = serve_bridge_http.get("/answer")
        assert (answer.status_code, answer.text, answer.headers["x-own"]) == (418, "teapot", "1")
        assert answer.headers["content-type"].partition(";")[0] == "text/x"
        assert "x-serve-secret" not in answer.headers

    def test_every_value_of_a_repeated_header_comes_back(self, serve_bridge_http: httpx.Client) -> None:
        """As one header perhaps (RFC 9110 section 5.3)."""
        assert serve_bridge_http.get("/answer").headers["x-many"].replace(" ", "") == "1,2"

    def test_every_cookie_comes_back(self, serve_bridge_http: httpx.Client) -> None:
        """With its attributes, and two of one name for two paths: these can be in no single header."""
        cookies = serve_bridge_http.get("/answer").headers.get_list("set-cookie")
        told = sorted((cookie.partition(";")[0], "httponly" in cookie.lower()) for cookie in cookies)
        assert told == [("a=1", False), ("a=3", False), ("b=2", True)]

    @pytest.mark.parametrize("query", ["", "?streamed", "?raised"], ids=["whole", "streamed", "raised"])
    def test_the_case_of_a_header_does_not_matter(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """ASGI and WSGI allow any; headers of the engine cannot be forged by it, and no cookie is lost."""
        answer = serve_bridge_http.get(f"/mixed{query}", headers={"x-request-id": "mine-1"})
        assert answer.headers["x-own"] == "1"
        assert answer.headers.get_list("x-request-id") == ["mine-1"]
        assert not {"x-serve-executed", "x-hop"} & answer.headers.keys()
        if "raised" not in query:
            assert sorted(answer.headers.get_list("set-cookie")) == ["a=1", "b=2"]

    def test_an_answer_is_streamed(self, serve_bridge_http: httpx.Client) -> None:
        """All parts arrive, in order."""
        assert serve_bridge_http.get("/lines").text == "".join(PARTS)

    def test_the_first_part_comes_before_the_last_is_made(
        self, serve_bridge_http: httpx.Client, serve_bridge_subject: Handle
    ) -> None:
        """Nothing on the way waits for more."""
        gate = secrets.token_hex(8)
        with serve_bridge_http.stream("GET", "/gated", params={"gate": gate}) as answer:
            parts = answer.iter_text()
            assert next(parts) == "first\n"
            serve_bridge_subject.options(method_name="open").call(gate)
            assert "".join(parts) == "last\n"

    def test_a_stream_is_not_to_be_collected_on_the_way(self, serve_bridge_http: httpx.Client) -> None:
        """A reverse proxy such as nginx would hold its events back; the backend may say otherwise."""
        told = {path: serve_bridge_http.get(path).headers.get("x-accel-buffering") for path in STREAMED_OR_NOT}
        assert told == STREAMED_OR_NOT

    @pytest.mark.parametrize(("declared", "pieces"), [(12, 2), (12, 0), (8, 2), (5, 2)])
    def test_an_answer_of_another_length_than_declared_leaks_nothing(
        self, serve_bridge_front: str, declared: int, pieces: int
    ) -> None:
        """An answer that is too short is visibly broken; bytes above the length do not become another answer."""
        path = f"/mismatched?declared={declared}&pieces={pieces}"
        with httpx.Client(base_url=serve_bridge_front, trust_env=False, verify=False, timeout=15) as http:
            is_short = declared > 5 * pieces
            with pytest.raises(httpx.TransportError) if is_short else suppress(httpx.TransportError):
                answer = http.get(path)
                if answer.status_code != 500:  # the framework has asked for the first piece before it began to answer
                    assert answer.content == (b"12345" * pieces)[:declared]
                elif is_short:
                    raise httpx.RemoteProtocolError("the answer is not there at all")
            with suppress(httpx.TransportError):  # the server has closed the connection
                assert http.get("/echo/next").json()["path"] == "/echo/next"

    @needs("early heads")
    def test_a_head_does_not_wait_for_its_body(self, serve_bridge_front: str, serve_bridge_subject: Handle) -> None:
        """Who waits for events sees that they will come."""
        gate = secrets.token_hex(8)
        with Exchange(serve_bridge_front, "GET", f"/silent?gate={gate}") as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            serve_bridge_subject.options(method_name="open").call(gate)
            assert exchange.read_at_least(4) == b"all\n"

    def test_a_client_that_does_not_read_pauses_the_backend(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """No more is made than fits on the way; once the client reads, all of it arrives."""
        gate = secrets.token_hex(8)
        target = f"/counted?gate={gate}&parts={LONG_BYTES // len(PART)}"
        with Exchange(serve_bridge_front, "GET", target) as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            produced = partial(serve_bridge_subject.options(method_name="produced").call, gate)
            assert 0 < _at_rest(produced, serve_bridge_subject) <= HELD_BYTES
            assert len(exchange.read_at_least(LONG_BYTES)) == LONG_BYTES

    def test_head_is_get_without_its_body(self, serve_bridge_http: httpx.Client) -> None:
        """Status and type are the same."""
        got, head = serve_bridge_http.get("/echo"), serve_bridge_http.head("/echo")
        assert (head.status_code, head.headers["content-type"]) == (200, got.headers["content-type"])
        assert head.content == b""

    @pytest.mark.parametrize("path", ["/answer", "/large", "/lines", "/mixed", "/mixed?streamed", "/mixed?raised"])
    def test_the_length_of_head_is_that_of_get(self, serve_bridge_http: httpx.Client, path: str) -> None:
        """Or it is not there: a client must not take the answer for an empty one."""
        length = serve_bridge_http.head(path).headers.get("content-length")
        assert length in (None, serve_bridge_http.get(path).headers.get("content-length"))

    @pytest.mark.parametrize("status", [204, 304])
    def test_an_empty_answer_has_no_body(self, serve_bridge_http: httpx.Client, status: int) -> None:
        """Nor does a later one on its connection suffer."""
        answer = serve_bridge_http.get("/nothing", params={"status": status})
        assert (answer.status_code, answer.content) == (status, b"")
        assert status == 304 or answer.headers.get("content-length", "0") == "0"  # wsgiref adds that one
        assert serve_bridge_http.get("/echo").status_code == 200

    def test_a_client_that_leaves_during_an_answer_cancels_it(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """The backend does not work for nobody."""
        gate = secrets.token_hex(8)
        with Exchange(serve_bridge_front, "GET", f"/endless?gate={gate}") as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            assert exchange.read()
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    def test_the_usual_loop_of_events_ends_when_the_client_leaves(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """`while not await request.is_disconnected()` sends until then; a WSGI server notices with the next event."""
        gate = secrets.token_hex(8)
        with Exchange(serve_bridge_front, "GET", f"/events?gate={gate}") as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            assert exchange.read_at_least(50).startswith(b"data: tick\n\n" * 4)
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    @needs("disconnects")
    def test_a_client_that_leaves_before_the_answer_cancels_the_work(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """Also while nothing is sent either way."""
        gate = secrets.token_hex(8)
        with Exchange(serve_bridge_front, "GET", f"/hanging?gate={gate}") as exchange:
            exchange.end()
            serve_bridge_subject.options(method_name="begun").call(gate)
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    # request ids

    @pytest.mark.parametrize("path", ["/echo", "/failing?kind=error"])
    def test_a_request_id_is_kept(self, serve_bridge_http: httpx.Client, path: str) -> None:
        """The client's own, whatever the answer."""
        answer = serve_bridge_http.get(path, headers={"x-request-id": "mine-1"})
        assert answer.headers.get_list("x-request-id") == ["mine-1"]

    @pytest.mark.parametrize("path", ["/echo", "/failing?kind=error"])
    def test_a_request_id_is_made(self, serve_bridge_http: httpx.Client, path: str) -> None:
        """One for each request; what is no id is not kept."""
        given = {"x-request-id": "no id, too many words"}
        ids = {serve_bridge_http.get(path, headers=given).headers["x-request-id"] for _ in range(2)}
        assert len(ids) == 2
        assert given["x-request-id"] not in ids

    @pytest.mark.parametrize("given", ["mine-2", "no id, too many words", None])
    def test_user_code_knows_the_request_id(self, serve_bridge_http: httpx.Client, given: str | None) -> None:
        """It is the one in the answer, whatever the client sent: from `serve.request_id()` and in the header."""
        answer = serve_bridge_http.get("/echo", headers={} if given is None else {"x-request-id": given})
        known = answer.headers["x-request-id"]
        seen = answer.json()
        assert (seen["request_id"], _ids(seen)) == (known, [known])

    @needs("websockets")
    @pytest.mark.parametrize("given", ["mine-3", "no id, too many words"])
    def test_a_websocket_knows_the_request_id(self, serve_bridge_front: str, given: str) -> None:
        """A valid one of the client is kept, any other is replaced."""
        with _websocket(serve_bridge_front, "/echo", additional_headers={"x-request-id": given}) as websocket:
            seen = httpx.Response(200, content=websocket.recv()).json()
        assert _ids(seen) == [seen["request_id"]]
        assert (seen["request_id"] == given) is (given == "mine-3")

    # what goes wrong

    @pytest.mark.parametrize("kind", ["error", "own", "exit", "result"])
    def test_a_failing_backend_is_a_500_that_says_nothing(self, serve_bridge_http: httpx.Client, kind: str) -> None:
        """But for the request's id: no traceback, no text of the error."""
        answer = serve_bridge_http.get("/failing", params={"kind": kind})
        assert answer.status_code == 500
        assert answer.headers["x-request-id"]
        assert not {"secret", "Traceback", "OddError", "SystemExit"} & set(answer.text.replace("(", " ").split())

    @pytest.mark.parametrize(("kind", "status", "retry"), [("missing", 503, "1"), ("late", 504, None)])
    def test_a_failed_call_of_a_backend_keeps_its_status(
        self, serve_bridge_http: httpx.Client, kind: str, status: int, retry: str | None
    ) -> None:
        """The backend's code did not fail: what it called is missing, or too slow."""
        answer = serve_bridge_http.get("/failing", params={"kind": kind})
        assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)

    def test_a_status_that_the_backend_raises_is_an_answer(self, serve_bridge_http: httpx.Client) -> None:
        """With the headers of Starlette's HTTPException."""
        answer = serve_bridge_http.get("/failing", params={"kind": "http"})
        assert (answer.status_code, answer.headers["x-why"]) == (451, "law")

    def test_an_answer_that_breaks_off_is_no_whole_one(self, serve_bridge_front: str) -> None:
        """The client can tell that something is missing."""
        with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False, verify=False) as http:
            http.get(f"{serve_bridge_front}/broken")

    @pytest.mark.parametrize("query", ["", "?raised"], ids=["returned", "raised"])
    def test_a_header_with_a_line_end_is_refused(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """A backend cannot be made to write headers by the text it puts into one."""
        answer = serve_bridge_http.get(f"/injecting{query}")
        assert answer.status_code == 500
        assert "x-injected" not in answer.headers

    def test_an_empty_control_header_is_a_400(self, serve_bridge_http: httpx.Client) -> None:
        """It means nothing, so nothing is guessed."""
        assert serve_bridge_http.get("/echo", headers={"x-serve-shard-key": ""}).status_code == 400

    def test_control_headers_stay(self, serve_bridge_http: httpx.Client) -> None:
        """User code must not take for ours what a client has written."""
        given = {"x-serve-shard-key": "k", "x-serve-other": "1"}
        names = {name for name, _ in serve_bridge_http.get("/echo", headers=given).json()["headers"]}
        assert not any(name.startswith("x-serve-") for name in names)

    # WebSockets

    @needs("websockets")
    def test_a_websocket_carries_messages_both_ways(self, serve_bridge_front: str) -> None:
        """Text and bytes, in order."""
        with _websocket(serve_bridge_front, "/echo") as websocket:
            websocket.recv()
            for message in ("one", b"two", "drei ü", b""):
                websocket.send(message)
            assert [websocket.recv() for _ in range(4)] == ["one", b"two", "drei ü", b""]

    @needs("websockets")
    def test_a_websocket_knows_its_request(self, serve_bridge_front: str) -> None:
        """Path, query, parameters and headers."""
        with _websocket(serve_bridge_front, "/echo/a/b?x=1&x=2", additional_headers={"x-mine": "yes"}) as websocket:
            seen = httpx.Response(200, content=websocket.recv()).json()
        assert (seen["path"], seen["query"], seen["params"]) == ("/echo/a/b", "x=1&x=2", {"rest": "a/b"})
        assert dict(seen["headers"])["x-mine"] == "yes"

    @needs("websockets")
    def test_a_websocket_leaves_the_headers_that_a_request_leaves(self, serve_bridge_front: str) -> None:
        """Hop-by-hop headers, those that `Connection` names, and what a client says of where it comes from."""
        given = {**CLAIMS, "proxy": "http://evil", "connection": "Upgrade, x-hop", "x-hop": "1", "x-mine": "yes"}
        with _websocket(serve_bridge_front, "/echo", additional_headers=given) as websocket:
            names = {name for name, _ in httpx.Response(200, content=websocket.recv()).json()["headers"]}
        assert not {*CLAIMS, "proxy", "x-hop"} & names
        assert "x-mine" in names

    @needs("websockets")
    def test_a_websocket_agrees_on_a_subprotocol(self, serve_bridge_front: str) -> None:
        """The backend chooses."""
        offered = [Subprotocol("a"), Subprotocol("b")]
        with _websocket(serve_bridge_front, "/echo", subprotocols=offered) as websocket:
            assert websocket.subprotocol == "b"

    @needs("websockets")
    def test_the_case_of_a_header_does_not_matter_to_a_websocket(self, serve_bridge_front: str) -> None:
        """Neither where it is accepted nor where it is denied."""
        with _websocket(serve_bridge_front, "/echo") as websocket:
            assert websocket.response is not None
            accepted = websocket.response.headers
        with pytest.raises(InvalidStatus) as denied, _websocket(serve_bridge_front, "/echo?deny"):
            pass
        for headers in (accepted, denied.value.response.headers):
            assert sorted(headers.get_all("set-cookie")) == ["a=1", "b=2"]
            assert len(headers.get_all("x-request-id")) == 1
            assert "forged" not in headers.get_all("x-request-id")
            assert "x-serve-executed" not in headers

    @needs("websockets")
    def test_a_websocket_is_closed_by_the_backend(self, serve_bridge_front: str) -> None:
        """With its code and reason."""
        with _websocket(serve_bridge_front, "/echo") as websocket:
            websocket.recv()
            websocket.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")

    @needs("websockets")
    def test_a_websocket_that_nobody_takes_is_denied(self, serve_bridge_front: str) -> None:
        """Before it is open."""
        with pytest.raises(InvalidStatus), _websocket(serve_bridge_front, "/nowhere"):
            pass


def _ids(seen: Mapping[str, Any]) -> list[str]:
    """Return the values of the header X-Request-Id that user code has *seen*."""
    return [value for name, value in seen["headers"] if name == "x-request-id"]


def _at_rest(value: Callable[[], int], subject: Handle) -> int:
    """Return *value* once it stays the same while other requests are answered."""
    before = -1
    while (now := value()) != before:
        before = now
        for _ in range(100):
            subject.options(method_name="produced").call("")
    return now


def _websocket(url: str, target: str, **options: Any) -> ClientConnection:
    target = url.replace("http", "ws", 1) + target
    websocket: ClientConnection = connect(target, open_timeout=15, proxy=None, compression=None, **options)
    return websocket
