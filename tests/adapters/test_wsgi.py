"""The generic WSGI adapter: an application, a middleware, under other frameworks, by the letter of PEP 3333."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import falcon
import httpx
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import serve_bridge as serve
from serve_bridge.adapters.environ import headers_of, scope_of
from serve_bridge.adapters.wsgi.application import ServeBridge, ServeBridgeMiddleware

ROUTES = {
    "/counter": {"endpoint": "counter", "methods": ["GET"]},
    "/echo/{count:int}/{rest:path}": "echo",
    "/form": "form",
    "/chunks": "chunks",
    "/answer": "answer",
    "/failing": "failing",
    "/missing": "missing",
}
App = Callable[..., Any]
imports_pyramid = pytest.mark.filterwarnings(
    "ignore:'cgi' is deprecated:DeprecationWarning",  # WebOb imports it
    "ignore:pkg_resources is deprecated:UserWarning",  # Pyramid imports it
    "ignore:Deprecated call to .pkg_resources:DeprecationWarning",  # which reads what Pyramid's companions declare
)


def own(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer for an application of the user's."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"own {environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode()]


@pytest.fixture
def bridge(engine: serve.Client) -> Iterator[ServeBridge]:
    """A bridge with routes."""
    bridge = ServeBridge(engine.address, routes=ROUTES)
    yield bridge
    bridge.close()


@contextmanager
def client_of(app: App) -> Iterator[httpx.Client]:
    """Call *app* in this thread."""
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://testserver") as http:
        yield http


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server_of(app: App) -> Iterator[str]:
    """Serve *app* by the standard library's server; return its URL."""
    with make_server("127.0.0.1", 0, app, handler_class=_Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def call(app: App, path: str = "/", **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """Call *app* once, as a server that checks every rule."""
    given: dict[str, Any] = {"SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", **environ}
    setup_testing_defaults(given)
    seen: list[Any] = []
    result = validator(app)(given, lambda status, headers, exc_info=None: seen.extend([status, headers]))
    try:
        body = b"".join(result)
    finally:
        result.close()
    return seen[0], {name.lower(): value for name, value in seen[1]}, body


# by the letter of PEP 3333


@pytest.mark.parametrize("path", ["/counter", "/chunks", "/answer", "/failing", "/missing", "/nowhere"])
def test_every_answer_is_valid(bridge: ServeBridge, path: str) -> None:
    """Whole, streamed, failed, or our own."""
    status, headers, _ = call(bridge, path, REQUEST_METHOD="GET")
    assert int(status.split(" ", 1)[0]) in (200, 404, 418, 500, 503)
    assert headers["content-type"]


@pytest.mark.parametrize("length", [5, 300_000])
def test_a_body_is_read_as_the_rules_want_it(bridge: ServeBridge, length: int) -> None:
    """Short ones at once, long ones piece by piece, never beyond their end."""
    body = io.BytesIO(b"x" * length + b"the next request")
    environ = {"REQUEST_METHOD": "POST", "wsgi.input": body, "CONTENT_LENGTH": str(length)}
    status, _, answer = call(bridge, "/echo/1/x", **environ)
    assert status == "200 OK"
    assert b'"' + b"x" * length + b'"' in answer
    assert body.read() == b"the next request"


def test_head_is_answered_without_a_body(bridge: ServeBridge) -> None:
    """A stream is closed unread."""
    assert call(bridge, "/chunks", REQUEST_METHOD="HEAD")[2] == b""
    assert call(bridge, "/answer", REQUEST_METHOD="HEAD")[2] == b""


def test_an_answer_that_nobody_reads_to_its_end_is_closed(bridge: ServeBridge) -> None:
    """The server calls `close`, and the next request is answered."""
    given: dict[str, Any] = {"SCRIPT_NAME": "", "PATH_INFO": "/chunks", "QUERY_STRING": ""}
    setup_testing_defaults(given)
    result = validator(bridge)(given, lambda status, headers, exc_info=None: None)
    assert next(iter(result))
    result.close()
    assert call(bridge, "/counter")[2] == b"call"


def test_a_body_that_ends_early_is_the_clients_fault(bridge: ServeBridge) -> None:
    """A 400 with a request id."""
    environ = {"REQUEST_METHOD": "POST", "wsgi.input": io.BytesIO(b"x"), "CONTENT_LENGTH": "10"}
    status, headers, _ = call(bridge, "/form", **environ)
    assert (status, "x-request-id" in headers) == ("400 Bad Request", True)


def test_a_body_whose_end_nobody_knows_is_refused(bridge: ServeBridge) -> None:
    """Reading it could take for ever; a server that knows says so."""
    environ = {"REQUEST_METHOD": "POST", "wsgi.input": io.BytesIO(b"x"), "HTTP_TRANSFER_ENCODING": "chunked"}
    assert call(bridge, "/echo/1/x", **environ)[0] == "411 Length Required"
    environ = {**environ, "wsgi.input": io.BytesIO(b"abc"), "wsgi.input_terminated": True}
    assert b'"abc"' in call(bridge, "/echo/1/x", **environ)[2]


def test_a_status_without_a_name_is_sent(engine: serve.Client) -> None:
    """A status line needs one."""
    from starlette.responses import PlainTextResponse

    engine.create_backend("odd", lambda request: PlainTextResponse("odd", 299))
    engine.create_endpoint("odd", backend="odd")
    bridge = ServeBridge(Path(engine.address), routes={"/odd": "odd"})
    assert call(bridge, "/odd")[0] == "299 Unknown"
    bridge.close()
    engine.delete_endpoint("odd")
    engine.delete_backend("odd")


# the request


def test_the_path_is_decoded_and_kept_as_it_came() -> None:
    """Below where the application is mounted."""
    environ: dict[str, Any] = {"SCRIPT_NAME": "/m", "PATH_INFO": "/\xc3\xbc/b", "RAW_URI": "/m/%C3%BC%2Fb?x"}
    setup_testing_defaults(environ)
    scope = scope_of(environ)
    assert (scope["path"], scope["root_path"], scope["raw_path"]) == ("/m/ü/b", "/m", b"/m/%C3%BC%2Fb")


def test_a_path_that_was_rewritten_has_no_raw_form() -> None:
    """The server's would contradict it."""
    environ: dict[str, Any] = {"PATH_INFO": "/b", "REQUEST_URI": "/a/b"}
    setup_testing_defaults(environ)
    assert scope_of(environ)["raw_path"] is None


def test_what_no_client_has_sent_is_no_header() -> None:
    """A length under a false name, a variable of the operating system."""
    environ = {"HTTP_CONTENT_LENGTH": "9", "HTTP_CONTENT_TYPE": "a/b", "HTTP_PROXY": "http://me:secret@proxy"}
    assert headers_of({**environ, "CONTENT_LENGTH": "", "HTTP_X_MINE": "1"}) == [(b"x-mine", b"1")]


def test_an_empty_header_of_the_client_stays() -> None:
    """Unlike an empty type, which says that there is none."""
    assert headers_of({"HTTP_X_EMPTY": "", "CONTENT_TYPE": "", "CONTENT_MD5": "x"}) == [(b"x-empty", b"")]


def test_a_fact_of_the_environment_goes_along(engine: serve.Client) -> None:
    """One that the route names."""
    engine.create_backend("who", lambda request: request.state.user)
    engine.create_endpoint("who", backend="who")
    context = {"user": "environ.REMOTE_USER"}
    bridge = ServeBridge(engine.address, routes={"/who": {"endpoint": "who", "context": context}})
    assert call(bridge, "/who", REMOTE_USER="me")[2] == b"me"
    bridge.close()
    engine.delete_endpoint("who")
    engine.delete_backend("who")


# the application


def test_an_application_answers_its_routes_only(bridge: ServeBridge) -> None:
    """Else with a problem."""
    with client_of(bridge) as http:
        assert http.get("/counter").text == "call"
        assert http.get("/nowhere").status_code == 404
        refused = http.post("/counter")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_without_routes_it_answers_those_of_the_instance(engine: serve.Client) -> None:
    """Also one that is created later, and with the instance's methods."""
    bridge = ServeBridge(engine.address)
    with client_of(bridge) as http:
        assert http.get("/counter").text == "call"
        assert http.delete("/counter").status_code == 405
        assert http.get("/later").status_code == 404
        engine.create_endpoint("later", backend="counter", route="/later")
        assert http.get("/later").text == "call"
        engine.delete_endpoint("later")
    bridge.close()


@pytest.mark.parametrize("routes", [None, ROUTES])
def test_without_an_instance_it_asks_for_patience(tmp_path: Path, routes: Any) -> None:
    """A 503 that says when to come back."""
    bridge = ServeBridge(str(tmp_path / "none.json"), routes=routes)
    status, headers, _ = call(bridge, "/counter")
    assert (status, headers["retry-after"]) == ("503 Service Unavailable", "1")


def test_backends_run_inside_the_process_if_asked_to() -> None:
    """For development and tests."""
    bridge = ServeBridge(runtime="local", routes={"/here": "here"}, backends=[here])
    with client_of(bridge) as http:
        assert http.get("/here").text == "here"
    bridge.close()


@serve.backend
def here(request: Any) -> str:
    """Be declared."""
    return "here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"routes": {"/x": {"endpoint": "e", "timeout": 1}}}, "did you mean 'timeout_s'"),
        ({"routes": {"/x/{y:nope}": "e"}}, "unknown converter 'nope'"),
        ({"address": {"/x": "e"}}, "routes go to routes="),
        ({"timeout_s": "5"}, "timeout_s must be a number of seconds"),
        ({"runtime": "ray"}, "runtime must be"),
        ({"backends": "shop"}, "backends must be a list"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    """When it is given."""
    with pytest.raises((TypeError, ValueError), match=message):
        ServeBridge(**arguments)


# the middleware


def test_a_middleware_forwards_what_matches(bridge: ServeBridge) -> None:
    """Pattern and method; the rest is the application's, as it came."""
    with client_of(bridge.middleware(own)) as http:
        assert http.get("/counter").text == "call"
        assert http.get("/echo/7/a/b").json()["params"] == {"count": ["int", "7"], "rest": ["str", "a/b"]}
        assert http.post("/counter").text == "own POST /counter"
        assert http.get("/counter/").text == "own GET /counter/"


def test_a_middleware_hands_on_the_very_environment(bridge: ServeBridge) -> None:
    """And returns the very answer."""
    seen: list[Any] = []
    answer = [b""]
    app = bridge.middleware(lambda environ, start_response: seen.append(environ) or answer)
    environ = {"PATH_INFO": "/own", "REQUEST_METHOD": "GET"}
    assert app(environ, print) is answer  # type: ignore[arg-type]
    assert seen[0] is environ
    assert environ == {"PATH_INFO": "/own", "REQUEST_METHOD": "GET"}


@pytest.mark.parametrize("wrap", [FileWrapper, lambda file: file])
def test_a_middleware_returns_the_servers_own_wrapper_of_a_file(bridge: ServeBridge, wrap: Any) -> None:
    """Servers that send a file by themselves know the object again."""
    answer = wrap(io.BytesIO(b"file"))
    app = bridge.middleware(lambda environ, start_response: answer)
    environ = {"PATH_INFO": "/own", "REQUEST_METHOD": "GET", "wsgi.file_wrapper": wrap}
    assert app(environ, print) is answer  # type: ignore[arg-type]


def test_a_middleware_closes_the_answer_of_its_application(bridge: ServeBridge) -> None:
    """Also if nobody has read a piece of it."""
    closed: list[str | None] = []

    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a"])

        def close(self) -> None:
            closed.append(serve.request_id())

    app = bridge.middleware(lambda environ, start_response: Pieces())
    environ = {"PATH_INFO": "/own", "REQUEST_METHOD": "GET", "HTTP_X_REQUEST_ID": "mine"}
    app(environ, print).close()  # type: ignore[arg-type, attr-defined]
    assert closed == ["mine"]


def test_a_middleware_has_arguments_of_its_own(engine: serve.Client) -> None:
    """Where there is no bridge yet."""
    app = ServeBridgeMiddleware(own, routes={"/counter": "counter"}, address=engine.address)
    assert call(app, "/counter")[2] == b"call"
    app.bridge.close()


def test_a_middleware_without_routes_is_refused() -> None:
    """It would forward everything the instance has, unseen by the application."""
    with pytest.raises(serve.ConfigError, match="routes="):
        ServeBridge().middleware(own)


# servers and frameworks


def test_the_standard_librarys_server_serves_it(bridge: ServeBridge) -> None:
    """It hands out a connection's whole input, so a body must not be read beyond its end."""
    with server_of(bridge.middleware(own)) as url, httpx.Client(base_url=url, trust_env=False, timeout=20) as http:
        assert http.post("/echo/1/x", content=b"y" * 300_000).json()["body"] == "y" * 300_000
        assert http.get("/chunks").text == "".join(f"{number}\n" * 50_000 for number in range(3))
        assert http.get("/other").text == "own GET /other"


@pytest.mark.parametrize("length", [10, 300_000])
def test_a_client_may_leave_during_its_upload(bridge: ServeBridge, length: int) -> None:
    """The server goes on, and the next client is answered."""
    with server_of(bridge) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as sender:
            sender.sendall(f"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nx".encode())
        assert httpx.get(f"{url}/counter", trust_env=False, timeout=30).text == "call"


def test_falcon_mounts_it(bridge: ServeBridge, engine: serve.Client) -> None:
    """By a dispatcher in front of it, as its documentation says."""
    mount = ServeBridge(engine.address)
    with client_of(DispatcherMiddleware(_falcon_app(), {"/models": mount})) as http:
        assert (http.get("/own").json(), http.get("/models/counter").text) == ("falcon", "call")
        assert http.get("/models/echo/7/x").json()["path"] == "/models/echo/7/x"
    mount.close()


def test_falcon_behind_the_middleware(bridge: ServeBridge) -> None:
    """What it does not forward, Falcon answers."""
    with client_of(bridge.middleware(_falcon_app())) as http:
        assert (http.get("/own").json(), http.get("/counter").text) == ("falcon", "call")
        assert http.post("/form", data={"a": "1"}).json() == {"a": "1"}
        assert http.post("/counter").status_code == 404


def _falcon_app() -> App:
    class Own:
        def on_get(self, request: Any, response: Any) -> None:
            response.media = "falcon"

    app: App = falcon.App()
    app.add_route("/own", Own())  # type: ignore[attr-defined]
    return app


@imports_pyramid
def test_pyramid_mounts_it(engine: serve.Client) -> None:
    """As a view, below a route."""
    from pyramid.config import Configurator
    from pyramid.wsgi import wsgiapp2

    mount = ServeBridge(engine.address)
    with Configurator() as config:
        config.add_route("models", "/models/*subpath")
        config.add_view(wsgiapp2(mount), route_name="models")
    with client_of(config.make_wsgi_app()) as http:
        assert http.get("/models/counter").text == "call"
        seen = http.post("/models/echo/7/x?y=1", content=b"hello").json()
        assert (seen["path"], seen["body"], seen["query"]) == ("/models/echo/7/x", "hello", [["y", "1"]])
    mount.close()


@imports_pyramid
def test_pyramid_behind_the_middleware(bridge: ServeBridge) -> None:
    """What it does not forward, Pyramid answers."""
    from pyramid.config import Configurator
    from pyramid.response import Response

    with Configurator() as config:
        config.add_route("own", "/own")
        config.add_view(lambda request: Response("pyramid"), route_name="own")
    with client_of(bridge.middleware(config.make_wsgi_app())) as http:
        assert (http.get("/own").text, http.get("/counter").text) == ("pyramid", "call")
        assert http.post("/counter").status_code == 404
