"""What is special to Starlette."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from inspect import signature
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

import serve_bridge as serve
from serve_bridge import BackendError
from serve_bridge.adapters.starlette.extension import ServeBridge, ServeBridgeMiddleware
from serve_bridge.testing.servers import serve_asgi
from tests.adapters.support.asgi_backends import begun, cancelled
from tests.adapters.support.asgi_transport import asgi_client
from tests.adapters.test_asgi_websocket import Everybody

WAIT_S = 20


@pytest.fixture
def bridge(asgi_engine: serve.Client) -> Iterator[ServeBridge]:
    """A bridge to the instance."""
    bridge = ServeBridge(asgi_engine.address)
    yield bridge
    bridge.close()


# ways in


def test_a_route_forwards(bridge: ServeBridge) -> None:
    """With its converters."""
    with asgi_client(Starlette(routes=[Route("/x/{n:float}", bridge.forward("echo"))])) as http:
        assert http.get("/x/1.5").json()["params"] == {"n": ["float", 1.5]}


def test_a_route_has_a_name(bridge: ServeBridge) -> None:
    """So that `url_for` finds it."""
    assert Starlette(routes=[Route("/x", bridge.forward("echo"))]).url_path_for("serve_bridge_echo") == "/x"


def test_a_mount_answers_the_instances_routes(bridge: ServeBridge) -> None:
    """Below its prefix, with the parameters of both and the whole path."""
    with asgi_client(Starlette(routes=[Mount("/{tenant}/ml", app=bridge)])) as http:
        seen = http.get("/acme/ml/echo/5").json()
    assert seen["params"] == {"tenant": ["str", "acme"], "number": ["int", 5]}
    assert seen["path"] == "/acme/ml/echo/5"


def test_a_mount_answers_routes_of_its_own(asgi_engine: serve.Client) -> None:
    """Those that it was given."""
    bridge = ServeBridge(asgi_engine.address, routes={"/say/{word}": {"endpoint": "echo", "methods": ["GET"]}})
    with asgi_client(Starlette(routes=[Mount("/ml", app=bridge)])) as http:
        assert http.get("/ml/say/a").json()["params"] == {"word": ["str", "a"]}
        assert http.get("/ml/echo/5").status_code == 404
    bridge.close()


def test_a_middleware_stands_among_the_others(bridge: ServeBridge) -> None:
    """By `add_middleware`; those around it see its requests."""
    app = Starlette()
    app.add_middleware(
        ServeBridgeMiddleware, routes={"/x": {"endpoint": "echo", "context": {"me": "user.username"}}}, bridge=bridge
    )
    app.add_middleware(AuthenticationMiddleware, backend=Everybody())
    with asgi_client(app) as http:
        assert http.get("/x").json()["state"]["me"] == "ada"
        assert http.get("/y").status_code == 404


def test_the_context_of_a_route_is_read_from_the_request(bridge: ServeBridge) -> None:
    """Users, sessions, and what a function makes of it."""
    routes = [
        Route("/paths", bridge.forward("echo", context={"me": "user.username", "tenant": "session.tenant"})),
        Route("/function", bridge.forward("echo", context=lambda request: {"path": request.url.path})),
    ]
    middleware = [
        Middleware(SessionMiddleware, secret_key="tests"),
        Middleware(AuthenticationMiddleware, backend=Everybody()),
    ]
    with asgi_client(Starlette(routes=routes, middleware=middleware)) as http:
        assert http.get("/paths").json()["state"] == {"me": "ada", "tenant": None}
        assert http.get("/function").json()["state"] == {"path": "/function"}


def test_a_handle_is_awaited_in_a_route(bridge: ServeBridge) -> None:
    """On the application's own loop."""

    async def add(request: Request) -> Any:
        handle = bridge.get_handle("Counter").options(method_name="add")
        return JSONResponse(await handle.acall(4, by="1"))

    with asgi_client(Starlette(routes=[Route("/x", add)])) as http:
        assert http.get("/x").json() == {"sum": 5}


# errors


def seen_by_handlers(bridge: ServeBridge, endpoint: str, status: int) -> HTTPException:
    """Return what the application's own handler gets when *endpoint* fails with *status*."""
    seen: list[HTTPException] = []

    async def handler(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        seen.append(error)
        return JSONResponse({}, status)

    routes = [Route("/x", bridge.forward(endpoint, timeout_s=0.2 if status == 504 else 30))]
    with asgi_client(Starlette(routes=routes, exception_handlers={HTTPException: handler})) as http:
        assert http.get("/x", headers={"x-request-id": "mine"}).status_code == status
    return seen[0]


@pytest.mark.parametrize(("endpoint", "status"), [("missing", 503), ("failing", 500), ("waiting", 504)])
def test_the_applications_handlers_shape_the_errors(bridge: ServeBridge, endpoint: str, status: int) -> None:
    """They are Starlette's HTTPException, with the request's id."""
    error = seen_by_handlers(bridge, endpoint, status)
    assert error.status_code == status
    assert dict(error.headers or {})["x-request-id"] == "mine"


def test_a_handler_finds_what_user_code_raised(bridge: ServeBridge) -> None:
    """With the traceback that the client does not get."""
    error = seen_by_handlers(bridge, "failing", 500).__cause__
    assert isinstance(error, BackendError)
    assert "asgi_backends.py" in error.remote_traceback


def test_the_log_has_the_traceback_of_what_user_code_raised(
    bridge: ServeBridge, caplog: pytest.LogCaptureFixture
) -> None:
    """As a warning: Starlette logs no HTTPException, and an error tracker has an event of it already."""
    seen_by_handlers(bridge, "failing", 500)
    (record,) = [record for record in caplog.records if record.name == "serve_bridge.adapters"]
    assert record.levelno == logging.WARNING
    assert "asgi_backends.py" in logging.Formatter().format(record)


def test_an_error_that_user_code_answers_with_is_an_answer(bridge: ServeBridge) -> None:
    """Its status and text are kept."""
    with asgi_client(Starlette(routes=[Route("/x", bridge.forward("forbidden"))])) as http:
        answer = http.get("/x")
    assert answer.status_code == 403
    assert "not you" in answer.text


def test_no_instance_is_a_503(tmp_path: Any) -> None:
    """With a time to come back."""
    bridge = ServeBridge(str(tmp_path / "none.json"))
    with asgi_client(Starlette(routes=[Route("/x", bridge.forward("echo"))])) as http:
        answer = http.get("/x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["x-request-id"]


def test_paths_and_methods_that_a_mount_has_not_are_the_applications_errors(bridge: ServeBridge) -> None:
    """404, and 405 with what is allowed."""
    with asgi_client(Starlette(routes=[Mount("/all", app=bridge)])) as http:
        assert http.get("/all/nothing").text == "Not Found"
        answer = http.delete("/all/echo/1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


# bodies


class ReadsBody(BaseHTTPMiddleware):
    """Reads every body, in the way that keeps it."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """Read it and go on."""
        await request.body()
        answer: Response = await call_next(request)
        return answer


class ReadsStream(BaseHTTPMiddleware):
    """Reads every body, in the way that loses it."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """Read it and go on."""
        async for _ in request.stream():
            pass
        answer: Response = await call_next(request)
        return answer


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_body_that_a_middleware_has_read_is_forwarded(bridge: ServeBridge, size: int) -> None:
    """From where Starlette keeps it."""
    route = Route("/x", bridge.forward("echo"), methods=["POST"])
    with asgi_client(Starlette(routes=[route], middleware=[Middleware(ReadsBody)])) as http:
        assert http.post("/x", content=b"x" * size).json()["body"] == "x" * size


def test_a_body_that_a_middleware_has_lost_is_a_500(bridge: ServeBridge, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what to do."""
    route = Route("/x", bridge.forward("echo"), methods=["POST"])
    with (
        caplog.at_level(logging.WARNING, "serve_bridge"),
        asgi_client(Starlette(routes=[route], middleware=[Middleware(ReadsStream)])) as http,
    ):
        assert http.post("/x", content=b"x").status_code == 500
    assert "await request.body()" in caplog.text


@pytest.mark.skipif("max_body_size" not in signature(Starlette).parameters, reason="Starlette is older than its limit")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [2_000, 200_000])
def test_the_applications_limit_of_bodies_holds(bridge: ServeBridge, size: int, chunked: bool) -> None:
    """With and without a length that says so beforehand."""
    app = Starlette(routes=[Route("/x", bridge.forward("echo"), methods=["POST"])], max_body_size=1_000)
    body = b"x" * size
    with serve_asgi(app) as url, httpx.Client(trust_env=False, timeout=30) as http:
        answer = http.post(url + "/x", content=iter([body[:500], body[500:]]) if chunked else body)
    assert answer.status_code == 413


# lifespans


def state(request: Request) -> Response:
    """Say what the lifespan has left."""
    return JSONResponse({name: str(type(getattr(request.state, name)).__name__) for name in request.state._state})


def test_the_lifespan_gives_the_bridge_to_requests_and_closes_it(asgi_engine: serve.Client) -> None:
    """`request.state.serve_bridge`."""
    bridge = ServeBridge(asgi_engine.address)
    with TestClient(Starlette(routes=[Route("/x", state)], lifespan=bridge.lifespan)) as http:
        assert http.get("/x").json() == {"serve_bridge": "ServeBridge"}
        connected = bridge.client
    assert bridge.client is not connected
    bridge.close()


def test_the_lifespan_connects_nothing(tmp_path: Any) -> None:
    """An application starts without its instance."""
    bridge = ServeBridge(str(tmp_path / "none.json"))
    with TestClient(Starlette(routes=[Route("/x", state)], lifespan=bridge.lifespan)) as http:
        assert http.get("/x").status_code == 200


@pytest.mark.parametrize("yields", [None, {"own": 1}])
def test_two_lifespans_are_one(bridge: ServeBridge, yields: dict[str, int] | None) -> None:
    """The bridge is there as long as the other."""
    events: list[str] = []

    @asynccontextmanager
    async def other(app: Any) -> AsyncIterator[dict[str, int] | None]:
        handle = bridge.get_handle("Counter")
        yield yields
        events.append(await handle.acall())

    with TestClient(Starlette(routes=[Route("/x", state)], lifespan=bridge.lifespan_with(other))) as http:
        assert http.get("/x").json().keys() == {"serve_bridge", *(yields or {})}
    assert events == ["call"]


def test_an_instance_inside_the_process_ends_with_the_lifespan() -> None:
    """For development and tests: nothing else has to be started."""
    bridge = ServeBridge(runtime="local", backends=["tests.adapters.support.asgi_backends:echo"])
    with TestClient(Starlette(routes=[Mount("/", app=bridge)], lifespan=bridge.lifespan)) as http:
        assert http.get("/echo/1").status_code == 200


# a client that leaves


def raw_request(url: str, head: str, body: bytes = b"") -> socket.socket:
    """Send a request by hand; return its socket."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{head} HTTP/1.1\r\nhost: x\r\n".encode() + body)
    return connection


_PLAIN: list[Middleware] = []
_READING = [Middleware(ReadsStream)]


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("middleware", "head", "rest"),
    [
        pytest.param(_PLAIN, "GET /waiting", b"\r\n", id="waiting"),
        pytest.param(_PLAIN, "GET /endless", b"\r\n", id="stream"),
        pytest.param(_PLAIN, "POST /waiting", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", id="upload"),
        pytest.param(_READING, "GET /waiting", b"\r\n", id="waiting-behind-a-middleware"),
        pytest.param(_READING, "GET /endless", b"\r\n", id="stream-behind-a-middleware"),
    ],
)
def test_a_client_that_leaves_cancels_the_work_without_a_traceback(
    bridge: ServeBridge, caplog: pytest.LogCaptureFixture, middleware: list[Middleware], head: str, rest: bytes
) -> None:
    """Under a real server, while it waits, reads or sends."""
    routes = [Route(path, bridge.forward(path[1:]), methods=["GET", "POST"]) for path in ("/waiting", "/endless")]
    with serve_asgi(Starlette(routes=routes, middleware=middleware)) as url:
        connection = raw_request(url, head, rest)
        assert begun.wait(WAIT_S)
        connection.close()
        assert cancelled.wait(WAIT_S)
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
