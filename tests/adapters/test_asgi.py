"""The generic ASGI adapter: as an application, as a middleware, and what it owes the protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypercorn.middleware import DispatcherMiddleware
from litestar import Litestar, asgi, get
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

import serve_bridge as serve
from serve_bridge import ConfigError
from serve_bridge.adapters.asgi.application import ServeBridge, ServeBridgeMiddleware
from tests.adapters.support.asgi_backends import begun, cancelled
from tests.adapters.support.asgi_calls import BODY, LEFT, Message, body_of, called, http_scope, types_of
from tests.adapters.support.asgi_transport import asgi_client
from tests.support.waiting import reached

WAIT_S = 20


@pytest.fixture(scope="module")
def bridge(asgi_engine: serve.Client) -> Iterator[ServeBridge]:
    """A bridge to the instance; it has no routes of its own, so it answers those of the instance."""
    bridge = ServeBridge(asgi_engine.address)
    yield bridge
    bridge.close()


def over(bridge: ServeBridge, routes: dict[str, Any]) -> ServeBridge:
    """Return an application of other routes over the same instance."""
    return ServeBridge(bridge.client.address, routes=routes)


async def own(scope: Message, receive: Any, send: Any) -> None:
    """Be an application that answers everything by itself."""
    await PlainTextResponse(f"own {scope['method']} {scope['path']}")(scope, receive, send)


def behind(bridge: ServeBridge, routes: dict[str, Any]) -> Any:
    """Return that application behind a middleware."""
    return ServeBridgeMiddleware(own, routes=routes, bridge=bridge)


# an application


def test_a_route_is_answered_by_its_endpoint(bridge: ServeBridge) -> None:
    """With typed parameters, whatever the routes of the instance are."""
    with asgi_client(over(bridge, {"/items/{item:uuid}": "echo"})) as http:
        seen = http.post("/items/00000000-0000-0000-0000-000000000001?a=1&a=2", content=b"hi").json()
    assert seen["params"] == {"item": ["UUID", "00000000-0000-0000-0000-000000000001"]}
    assert (seen["query"], seen["body"]) == ([["a", "1"], ["a", "2"]], "hi")


def test_without_routes_those_of_the_instance_are_answered(bridge: ServeBridge) -> None:
    """As its routing table has them."""
    with asgi_client(bridge) as http:
        assert http.get("/echo/7").json()["params"] == {"number": ["int", 7]}


def test_routes_are_matched_below_the_mount(bridge: ServeBridge) -> None:
    """`root_path` says where that is; the backend sees the whole path."""
    sent = called(bridge, http_scope("/ml/echo/7", root_path="/ml"))
    assert sent[0]["status"] == 200
    assert b"/ml/echo/7" in body_of(sent)


def test_a_mount_that_is_no_prefix_of_the_path_is_no_mount(bridge: ServeBridge) -> None:
    """Some servers leave `root_path` out of the path."""
    assert called(bridge, http_scope("/echo/7", root_path="/ech"))[0]["status"] == 200


def test_an_unknown_path_is_a_404_problem(bridge: ServeBridge) -> None:
    """Answered directly: there is no application around."""
    with asgi_client(bridge) as http:
        answer = http.get("/nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_another_method_is_a_405_that_names_those_allowed(bridge: ServeBridge) -> None:
    """HEAD comes with GET."""
    with asgi_client(bridge) as http:
        answer = http.delete("/echo/1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_no_instance_is_a_503_problem(tmp_path: Any) -> None:
    """With a time to come back and a request id."""
    with asgi_client(ServeBridge(str(tmp_path / "none.json"))) as http:
        answer = http.get("/x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["x-request-id"]


def test_a_failing_backend_is_a_500_that_says_nothing(bridge: ServeBridge) -> None:
    """But for the request's id."""
    with asgi_client(over(bridge, {"/x": "failing"})) as http:
        answer = http.get("/x", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
    assert "secret" not in answer.text


def test_an_unknown_scope_is_refused(bridge: ServeBridge) -> None:
    """As the specification asks for."""
    with pytest.raises(ValueError, match="telnet"):
        called(bridge, {"type": "telnet"})


def test_the_end_of_a_lifespan_closes_the_bridge(bridge: ServeBridge) -> None:
    """Its start connects nothing."""
    app = over(bridge, {"/x": "echo"})
    with asgi_client(app) as http:
        http.get("/x")
    connected = app.client
    sent = called(app, {"type": "lifespan"}, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    assert types_of(sent) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app.client is not connected
    app.close()


# a middleware


def test_a_middleware_forwards_what_matches(bridge: ServeBridge) -> None:
    """Pattern and method."""
    with asgi_client(behind(bridge, {"/items/{n:int}": {"endpoint": "echo", "methods": ["POST"]}})) as http:
        assert http.post("/items/3").json()["params"] == {"n": ["int", 3]}


@pytest.mark.parametrize(("method", "path"), [("GET", "/items/3"), ("POST", "/items/x"), ("POST", "/items/3/")])
def test_a_middleware_hands_on_everything_else(bridge: ServeBridge, method: str, path: str) -> None:
    """Other methods and other paths are the application's."""
    with asgi_client(behind(bridge, {"/items/{n:int}": {"endpoint": "echo", "methods": ["POST"]}})) as http:
        assert http.request(method, path).text == f"own {method} {path}"


def test_a_middleware_hands_on_scopes_that_it_does_not_know(bridge: ServeBridge) -> None:
    """The very same objects."""
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.extend(arguments)

    given: tuple[Any, ...] = ({"type": "telnet"}, object(), object())
    asyncio.run(ServeBridgeMiddleware(app, routes={"/x": "echo"}, bridge=bridge)(*given))
    assert all(one is other for one, other in zip(seen, given, strict=True))


def test_a_middleware_answers_errors_itself(bridge: ServeBridge) -> None:
    """Nobody handles what is raised there, although Starlette has put its application into the scope."""

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"ours": True}, 503)

    app = Starlette(
        middleware=[Middleware(ServeBridgeMiddleware, routes={"/x": "missing"}, bridge=bridge)],
        exception_handlers={503: unexpected},
    )
    with asgi_client(app) as http:
        answer = http.get("/x")
    assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")


def test_a_bridge_with_routes_is_its_own_middleware(bridge: ServeBridge) -> None:
    """`bridge.middleware(app)`."""
    with asgi_client(over(bridge, {"/x": "echo"}).middleware(own)) as http:
        assert http.get("/x").json()["path"] == "/x"
        assert http.get("/y").text == "own GET /y"


def test_a_middleware_closes_the_bridge_when_the_application_has_shut_down(bridge: ServeBridge) -> None:
    """And hands the lifespan on."""
    opened = over(bridge, {"/x": "echo"})
    connected = opened.client
    sent = called(
        opened.middleware(Starlette()),
        {"type": "lifespan", "state": {}},
        [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}],
    )
    assert types_of(sent) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert opened.client is not connected
    opened.close()


# bad input


def test_a_middleware_must_be_told_what_to_forward(bridge: ServeBridge) -> None:
    """All of the instance's routes ahead of an application would be a surprise."""
    with pytest.raises(ConfigError, match="routes="):
        bridge.middleware(own)


def test_a_misspelt_option_is_named_with_the_nearest() -> None:
    """Where the application is made."""
    with pytest.raises(ConfigError, match=r"routes\['/x'\].*'timeout'.*timeout_s"):
        ServeBridge(routes={"/x": {"endpoint": "echo", "timeout": 3}})


def test_routes_in_the_place_of_the_address_are_a_type_error() -> None:
    """The message says where they belong."""
    with pytest.raises(TypeError, match="routes="):
        ServeBridge({"/x": "echo"})  # type: ignore[arg-type]


def test_a_bad_time_is_named() -> None:
    """Not at the first request."""
    with pytest.raises(ConfigError, match="timeout_s"):
        ServeBridge(timeout_s=0)


def test_a_loop_that_is_not_asyncios_is_refused(bridge: ServeBridge) -> None:
    """By a message that says so."""
    step = bridge(http_scope("/echo/1"), None, None).__await__()  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="asyncio"):
        next(step)


# what the protocol asks for


def test_an_answer_has_one_start_and_one_end(bridge: ServeBridge) -> None:
    """Chunk by chunk between them."""
    sent = called(over(bridge, {"/x": "count"}), http_scope("/x"))
    assert types_of(sent) == ["http.response.start"] + ["http.response.body"] * (len(sent) - 1)
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    assert body_of(sent) == b"0\n1\n2\n"


def test_headers_are_lower_case_pairs_of_bytes_and_stay_repeated(bridge: ServeBridge) -> None:
    """Cookies above all."""
    headers = called(bridge, http_scope("/answer"))[0]["headers"]
    assert all(isinstance(part, bytes) for pair in headers for part in pair)
    assert (b"x-own", b"1") in headers
    assert [name for name, _ in headers].count(b"set-cookie") == 2


@pytest.mark.parametrize(("path", "status"), [("/answer", 418), ("/count", 200), ("/failing", 500), ("/none", 404)])
def test_head_has_no_body(bridge: ServeBridge, path: str, status: int) -> None:
    """Of an answer, of a stream, of an error."""
    app = over(bridge, {"/answer": "answer", "/count": "count", "/failing": "failing"})
    sent = called(app, http_scope(path, "HEAD"))
    assert (sent[0]["status"], body_of(sent)) == (status, b"")


def test_a_body_needs_no_header_in_later_versions_of_http(bridge: ServeBridge) -> None:
    """HTTP/2 has frames that say where it ends."""
    body = {"type": "http.request", "body": b"two", "more_body": False}
    sent = called(bridge, http_scope("/echo/1", "POST", http_version="2"), [body])
    assert b'"body":"two"' in body_of(sent)


def test_a_body_that_was_consumed_before_is_an_error_that_says_so(
    bridge: ServeBridge, caplog: pytest.LogCaptureFixture
) -> None:
    """The backend must not take it for an empty one."""
    scope = http_scope("/echo/1", "POST", headers=[(b"content-length", b"3")])
    with caplog.at_level(logging.WARNING, "serve_bridge"):
        sent = called(bridge, scope)
    assert sent[0]["status"] == 500
    assert "await request.body()" in caplog.text


def test_a_body_that_never_comes_is_a_504(bridge: ServeBridge) -> None:
    """As behind a middleware that reads it and hands on a `receive` that waits for ever."""
    app = over(bridge, {"/x": {"endpoint": "echo", "timeout_s": 0.05}})
    sent = called(app, http_scope("/x", "POST", headers=[(b"content-length", b"3")]), [])
    assert sent[0]["status"] == 504
    assert (b"x-serve-executed", b"no") in sent[0]["headers"]


def test_a_body_above_the_routes_limit_is_a_413(bridge: ServeBridge) -> None:
    """Before anything of it is read."""
    with asgi_client(over(bridge, {"/x": {"endpoint": "echo", "max_body_bytes": 3}})) as http:
        assert http.post("/x", content=b"four").status_code == 413


# a client that leaves


def upload(*pieces: bytes) -> list[Message]:
    """Return the messages of a body that goes on."""
    return [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]


async def once_begun() -> Message:
    """Leave when the backend has begun."""
    await reached(begun.is_set)
    return LEFT


@pytest.mark.usefixtures("signals")
def test_a_client_that_leaves_before_its_body_starts_nothing(bridge: ServeBridge) -> None:
    """An empty body must not stand for one that has not come."""
    scope = http_scope("/x", "POST", headers=[(b"content-length", b"3")])
    assert called(over(bridge, {"/x": "waiting"}), scope, [LEFT])[0]["status"] == 499
    assert not begun.is_set()


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("method", "before"),
    [("GET", []), ("GET", [BODY]), ("POST", upload(b"x" * 10)), ("POST", upload(b"x" * 100_000, b"y"))],
    ids=["without-body", "empty-body", "short-upload", "long-upload"],
)
def test_a_client_that_leaves_cancels_the_work(bridge: ServeBridge, method: str, before: list[Message]) -> None:
    """While it sends its body, and while it waits for the answer; nothing is raised."""
    headers = [(b"transfer-encoding", b"chunked")] if method == "POST" else []
    sent = called(over(bridge, {"/x": "waiting"}), http_scope("/x", method, headers=headers), [*before, once_begun])
    assert sent[0]["status"] == 499
    assert cancelled.wait(WAIT_S)


@pytest.mark.usefixtures("signals")
def test_a_client_that_leaves_ends_the_stream(bridge: ServeBridge) -> None:
    """The answer breaks off without an end."""
    sent = called(over(bridge, {"/x": "endless"}), http_scope("/x"), [BODY, once_begun])
    assert sent[0]["status"] == 200
    assert sent[-1].get("more_body", True)
    assert cancelled.wait(WAIT_S)


@pytest.mark.usefixtures("signals")
def test_a_send_that_fails_ends_the_stream(bridge: ServeBridge) -> None:
    """So do servers say that the client has left (ASGI 2.4)."""
    app = over(bridge, {"/x": "endless"})
    pieces = 0

    async def send(message: Message) -> None:
        nonlocal pieces
        pieces += message["type"] == "http.response.body"
        if pieces > 3:
            raise OSError

    async def receive() -> Message:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    asyncio.run(app(http_scope("/x"), receive, send))
    assert cancelled.wait(WAIT_S)


def test_a_receive_that_repeats_itself_does_not_hang_the_loop(bridge: ServeBridge) -> None:
    """Middlewares that replay a body often do it for ever."""
    app = over(bridge, {"/x": {"endpoint": "waiting", "timeout_s": 0.3}})

    async def ask() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return BODY

        async def send(message: Message) -> None:
            sent.append(message)

        await app(http_scope("/x"), receive, send)
        return sent

    assert asyncio.run(ask())[0]["status"] == 504


# other frameworks


def test_litestar_mounts_it(bridge: ServeBridge) -> None:
    """Below a path of its own."""
    mounted = asgi("/ml", is_mount=True, copy_scope=True)(over(bridge, {"/echo/{n:int}": "echo"}))  # type: ignore[arg-type]
    with asgi_client(Litestar([mounted])) as http:
        assert http.get("/ml/echo/3").json()["params"] == {"n": ["int", 3]}
        assert http.get("/ml/nothing").status_code == 404


def test_litestar_has_it_as_a_middleware(bridge: ServeBridge) -> None:
    """Around the application."""

    @get("/own")
    async def own_route() -> str:
        return "own"

    with asgi_client(over(bridge, {"/echo/{n:int}": "echo"}).middleware(Litestar([own_route]))) as http:
        assert http.get("/echo/3").json()["params"] == {"n": ["int", 3]}
        assert http.get("/own").text == "own"


def test_quart_has_it_as_a_middleware(bridge: ServeBridge) -> None:
    """In the place of its `asgi_app`, as its documentation has it."""
    app = Quart(__name__)
    app.asgi_app = over(bridge, {"/echo/{n:int}": "echo"}).middleware(app.asgi_app)  # type: ignore[method-assign]

    @app.get("/own")
    async def own_route() -> str:
        return "own"

    with asgi_client(app) as http:
        assert http.get("/echo/3").json()["params"] == {"n": ["int", 3]}
        assert http.get("/own").text == "own"


def test_quart_stands_beside_it_under_a_dispatcher(bridge: ServeBridge) -> None:
    """Hypercorn's, which Quart's documentation names for mounts."""
    app = Quart(__name__)

    @app.get("/own")
    async def own_route() -> str:
        return "own"

    mounts: dict[str, Callable[..., Awaitable[None]]] = {"/ml": over(bridge, {"/echo/{n:int}": "echo"}), "": app}
    with asgi_client(DispatcherMiddleware(mounts)) as http:  # type: ignore[arg-type]
        assert http.get("/ml/echo/3").json()["params"] == {"n": ["int", 3]}
        assert http.get("/own").text == "own"


def test_a_plain_starlette_route_takes_a_forwarding_application(bridge: ServeBridge) -> None:
    """`bridge.forward` is an ASGI application like any other."""
    with asgi_client(Starlette(routes=[Route("/x/{n:int}", bridge.forward("echo"))])) as http:
        answer: httpx.Response = http.get("/x/3")
    assert answer.json()["params"] == {"n": ["int", 3]}
