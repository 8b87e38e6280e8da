"""The page "Calling Endpoints via HTTP and ServeHandle", statement by statement."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import starlette.requests
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import serve_bridge as serve
from serve_bridge import ServeRequest


@pytest.fixture(autouse=True)
def current(client: serve.Client) -> Iterator[serve.Client]:
    """Make the shared instance the process's current one, and leave it empty."""
    current = serve.connect(client.address)
    yield current
    for endpoint in client.list_endpoints():
        client.delete_endpoint(endpoint)
    for backend in client.list_backends():
        client.delete_backend(backend)
    current.close()


def serve_code(code: Any, route: str | None = "/route", methods: tuple[str, ...] = ("GET", "POST")) -> Any:
    """Put *code* behind an endpoint; return its handle."""
    serve.create_backend("my_backend", code)
    serve.create_endpoint("my_endpoint", backend="my_backend", route=route, methods=methods)
    return serve.get_handle("my_endpoint")


# Calling endpoints via HTTP


def test_an_endpoint_is_served_at_its_route(http: httpx.Client) -> None:
    """To serve an endpoint over HTTP you just need to specify the route."""
    serve.create_backend("my_backend", lambda request: {"count": 1})
    serve.create_endpoint("my_endpoint", backend="my_backend", route="/counter")
    assert http.get("/counter").json() == {"count": 1}


def test_by_default_there_is_a_single_http_server(client: serve.Client) -> None:
    """On the node that called start."""
    assert len(client.http_urls) == 1


@pytest.mark.parametrize("location", ["HeadOnly", "EveryNode", serve.Location.HeadOnly])
def test_the_http_server_is_where_the_location_says(start: Callable[..., serve.Client], location: str) -> None:
    """One on the head node, or one per node, which on one node is the same."""
    (url,) = start(http_options={"location": location, "port": 0}).http_urls
    assert httpx.get(f"{url}/-/routes", trust_env=False, timeout=30).json() == {}


@pytest.mark.parametrize("location", ["NoServer", None])
def test_no_server_disables_http(start: Callable[..., serve.Client], location: str | None) -> None:
    """Handles work without it."""
    client = start(http_options={"location": location})
    client.create_backend("my_backend", lambda request: "by handle")
    client.create_endpoint("my_endpoint", backend="my_backend")
    assert client.http_urls == []
    assert client.get_handle("my_endpoint").call() == "by handle"


def test_a_path_parameter_is_in_path_params(http: httpx.Client) -> None:
    """The username parameter is accessible in backend code."""

    def my_backend(request: Any) -> str:
        username = request.path_params["username"]
        return f"Hello, {username}"

    serve_code(my_backend, "/api/{username}")
    assert http.get("/api/ada").text == "Hello, ada"


def test_path_parameters_are_converted(http: httpx.Client) -> None:
    """For /api/123/3.14 path_params is {"user_id": 123, "number": 3.14}, an int and a float."""

    def f(request: Any) -> Any:
        params = request.path_params
        return {"params": params, "types": {key: type(value).__name__ for key, value in params.items()}}

    serve.create_backend("f", f)
    serve.create_endpoint("complex", backend="f", route="/api/{user_id:int}/{number:float}")
    assert http.get("/api/123/3.14").json() == {
        "params": {"user_id": 123, "number": 3.14},
        "types": {"user_id": "int", "number": "float"},
    }


def test_a_starlette_response_sets_the_status_code(http: httpx.Client) -> None:
    """Response('Hello, world!', status_code=123, media_type='text/plain'), read byte by byte."""

    def f(starlette_request: Any) -> Response:
        return Response("Hello, world!", status_code=123, media_type="text/plain")

    serve.create_backend("hello", f)
    serve.create_endpoint("hello", backend="hello", route="/hello")
    where = urlsplit(str(http.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 123 ")
    assert b"\r\ncontent-type: text/plain; charset=utf-8\r\n" in answer.lower()


def test_a_starlette_response_with_a_usual_status_keeps_its_body(http: httpx.Client) -> None:
    """The same page with a status that may have a body."""
    serve_code(lambda request: Response("Hello, world!", status_code=418, media_type="text/plain"))
    answer = http.get("/route")
    assert (answer.status_code, answer.text) == (418, "Hello, world!")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_cors_can_be_enabled_by_a_middleware(start: Callable[..., serve.Client]) -> None:
    """Serve supports arbitrary Starlette middlewares."""
    client = start(
        http_options={
            "port": 0,
            "middlewares": [Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"])],
        }
    )
    url = f"{client.http_urls[0]}/-/routes"
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
    preflight = httpx.options(url, headers=asked, trust_env=False, timeout=30)
    assert preflight.status_code == 200
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    answer = httpx.get(url, headers={"Origin": "https://a.example"}, trust_env=False, timeout=30)
    assert answer.headers["access-control-allow-origin"] == "*"


# Calling endpoints from Python


def test_a_handle_calls_an_endpoint_without_a_route() -> None:
    """You can get a handle corresponding to an endpoint."""
    assert serve_code(lambda request: "answer", route=None).call("request") == "answer"


def test_a_handle_goes_through_the_traffic_policy() -> None:
    """The same code path as an HTTP request: backends are chosen by traffic policies."""
    handle = serve_code(lambda request: "old")
    serve.create_backend("new", lambda request: "new")
    serve.set_traffic("my_endpoint", {"my_backend": 0.0, "new": 1.0})
    assert handle.call() == "new"


# Accessing data from the request


def described(parts: Callable[[Any], Any]) -> Any:
    """Return a backend that answers with what *parts* finds in the request."""

    async def backend(request: Any) -> Any:
        found = parts(request)
        return await found if asyncio.iscoroutine(found) or hasattr(found, "__await__") else found

    return backend


def test_headers(http: httpx.Client) -> None:
    """requests.get(..., headers={...}) is handle.options(http_headers={...})."""
    handle = serve_code(lambda request: request.headers["X-Who"])
    assert http.get("/route", headers={"x-who": "ada"}).text == "ada"
    assert handle.options(http_headers={"x-who": "ada"}).call() == "ada"


def test_method(http: httpx.Client) -> None:
    """requests.post(...) is handle.options(http_method="POST")."""
    handle = serve_code(lambda request: request.method)
    assert http.post("/route").text == "POST"
    assert handle.options(http_method="POST").call() == "POST"
    assert (http.get("/route").text, handle.call()) == ("GET", "GET")


def test_json(http: httpx.Client) -> None:
    """requests.get(..., json={...}) is handle.remote({...}), both with await request.json()."""
    handle = serve_code(described(lambda request: request.json()))
    assert http.request("GET", "/route", json={"a": [1, None]}).json() == {"a": [1, None]}
    assert handle.call({"a": [1, None]}) == {"a": [1, None]}


def test_form(http: httpx.Client) -> None:
    """requests.get(..., form={...}) is handle.remote({...}), both with await request.form()."""

    async def backend(request: Any) -> Any:
        return dict(await request.form())

    handle = serve_code(backend)
    assert http.post("/route", data={"a": "b"}).json() == {"a": "b"}
    assert handle.call({"a": "b"}) == {"a": "b"}


def test_query_params(http: httpx.Client) -> None:
    """requests.get(..., params={"a":"b"}) is handle.remote(a="b")."""
    handle = serve_code(lambda request: request.query_params["a"])
    assert http.get("/route", params={"a": "b"}).text == "b"
    assert handle.call(a="b") == "b"


def test_body(http: httpx.Client) -> None:
    """requests.get(..., data="long string") is handle.remote("long string")."""
    handle = serve_code(described(lambda request: request.body()))
    assert http.request("GET", "/route", content="long string").text == "long string"
    assert handle.call("long string") == "long string"


def test_data() -> None:
    """A handle passes Python objects, which is not possible in HTTP."""
    handle = serve_code(lambda request: (type(request.data).__name__, request.data))
    assert handle.call({1, 2}) == ("set", {1, 2})


def test_isinstance_tells_web_from_python(http: httpx.Client) -> None:
    """Distinguish if the origin of the request is from Python or HTTP."""

    def backend(request: Any) -> str:
        if isinstance(request, starlette.requests.Request):
            return "Request coming from web!"
        elif isinstance(request, ServeRequest):
            return "Request coming from Python!"
        return "neither"

    handle = serve_code(backend)
    assert http.get("/route").text == "Request coming from web!"
    assert handle.call() == "Request coming from Python!"


def web_request(body: bytes = b"") -> starlette.requests.Request:
    """Return a web request as a Starlette application gets it."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-length", b"%d" % len(body)), (b"x-who", b"ada")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": "/from/web",
        "query_string": b"a=b",
        "headers": headers,
        "path_params": {"id": 7},
    }
    return starlette.requests.Request(scope, receive)


async def told(request: Any) -> dict[str, Any]:
    """A backend that tells what it got."""
    return {
        "type": f"{type(request).__module__}.{type(request).__name__}",
        "request": (request.method, request.url.path, request.query_params["a"], request.headers["x-who"]),
        "path_params": request.path_params,
        "body": await request.body(),
    }


def test_a_web_request_passed_to_a_handle_is_not_wrapped() -> None:
    """You can directly process the request as a starlette.requests.Request."""
    starlette_request = web_request(b"the body")
    asyncio.run(starlette_request.body())
    assert serve_code(told).call(starlette_request) == {
        "type": "starlette.requests.Request",
        "request": ("PUT", "/from/web", "b", "ada"),
        "path_params": {"id": 7},
        "body": b"the body",
    }


def test_acall_reads_the_body_of_a_web_request_itself() -> None:
    """A view that awaits needs not read it first."""
    handle = serve_code(told)
    assert asyncio.run(handle.acall(web_request(b"unread")))["body"] == b"unread"


def test_a_synchronous_call_with_an_unread_body_says_what_to_do() -> None:
    """Only a loop could read it."""
    handle = serve_code(told)
    with pytest.raises(serve.SerializationError, match=r"await request\.body\(\)"):
        handle.call(web_request(b"unread"))


# Sync and async handles


def test_the_default_handle_is_synchronous() -> None:
    """When you set sync=True (the default), a synchronous handle is returned."""
    serve_code(lambda request: "answer")
    assert serve.get_handle("my_endpoint").call() == "answer"
    assert serve.get_handle("my_endpoint", sync=True).call() == "answer"


def test_an_asynchronous_handle_is_used_on_an_event_loop() -> None:
    """To use await, run serve.get_handle and the call in a Python asyncio event loop."""
    serve_code(lambda request: "answer")

    async def main() -> Any:
        handle = serve.get_handle("my_endpoint", sync=False)
        return await handle.acall()

    assert asyncio.run(main()) == "answer"


# Calling methods besides __call__


class StatefulProcessor:
    """The seed page's."""

    def __init__(self) -> None:
        self.count = 1

    def __call__(self, request: Any) -> Any:
        """Tell the count."""
        return {"current": self.count}

    def other_method(self, inc: int) -> bool:
        """Count on."""
        self.count += inc
        return True


def test_a_custom_method_is_called_from_python() -> None:
    """handle.options(method_name="other_method").remote(5)."""
    handle = serve_code(StatefulProcessor)
    assert handle.options(method_name="other_method").call(5) is True
    assert handle.call() == {"current": 6}


def test_a_custom_method_is_called_over_http(http: httpx.Client) -> None:
    """Pass in the method name in the header field X-SERVE-CALL-METHOD."""
    serve_code(StatefulProcessor)
    answer = http.post("/route", json=5, headers={"X-SERVE-CALL-METHOD": "other_method"})
    assert (answer.status_code, answer.json()) == (200, True)
    assert http.get("/route").json() == {"current": 6}
