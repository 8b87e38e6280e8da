"""HTTP: routes, results, errors and headers, through the proxy."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy
import pydantic
import pytest
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.certificates import make_certificate
from tests.support.serving import Served, Serving
from tests.support.waiting import reached, wait_until, wait_until_equal

TEXT, JSON, BYTES = "text/plain; charset=utf-8", "application/json", "application/octet-stream"


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    at: datetime.date


class Model(pydantic.BaseModel):
    """A pydantic model."""

    name: str
    tags: list[str] = []


RESULTS: dict[str, tuple[Any, str | None, bytes]] = {
    "None": (None, None, b""),
    "str": ("grüße", TEXT, "grüße".encode()),
    "empty": ("", TEXT, b""),
    "bytes": (b"\x00\xff", BYTES, b"\x00\xff"),
    "dict": ({"a": [1, None, True]}, JSON, b'{"a":[1,null,true]}'),
    "list": ([1, 2], JSON, b"[1,2]"),
    "tuple": ((1, "b"), JSON, b'[1,"b"]'),
    "int": (5, JSON, b"5"),
    "bool": (True, JSON, b"true"),
    "float": (1.5, JSON, b"1.5"),
    "nested bytes": ({"a": b"text"}, JSON, b'{"a":"text"}'),
    "array": (numpy.array([[1, 2], [3, 4]]), JSON, b"[[1,2],[3,4]]"),
    "scalar": (numpy.float64(0.5), JSON, b"0.5"),
    "dataclass": (Point(1, datetime.date(2021, 3, 4)), JSON, b'{"x":1,"at":"2021-03-04"}'),
    "pydantic": (Model(name="n"), JSON, b'{"name":"n","tags":[]}'),
    "datetime": ([datetime.datetime(2021, 3, 4, 5)], JSON, b'["2021-03-04T05:00:00"]'),
    "response": (Response(b"own", 201, {"X-Own": "1"}, "text/html"), "text/html; charset=utf-8", b"own"),
    "json response": (JSONResponse({"a": 1}, 202), JSON, b'{"a":1}'),
}
STATUSES = {"response": 201, "json response": 202}


def result_of(request: Any) -> Any:
    """Return what the query asks for."""
    return RESULTS[request.query_params["name"]][0]


@pytest.fixture(scope="module")
def results(module_serving: Serving) -> Served:
    """A backend that returns any of the results."""
    return module_serving(result_of)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_becomes_an_answer(results: Served, http: httpx.Client, name: str) -> None:
    """By the type of the result."""
    answer = http.get(results.route, params={"name": name})
    _, media_type, body = RESULTS[name]
    assert (answer.status_code, answer.content) == (STATUSES.get(name, 200), body)
    assert answer.headers.get("content-type") == media_type
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("name", ["None", "str", "dict", "response"])
def test_head_is_get_without_its_body(results: Served, http: httpx.Client, name: str) -> None:
    """Headers are the same."""
    got = http.get(results.route, params={"name": name})
    head = http.head(results.route, params={"name": name})
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers.get("content-length") == got.headers["content-length"]


def failing(request: Any) -> Any:
    """Fail as the query asks for."""
    kind = request.query_params["kind"]
    if kind == "raise":
        raise ValueError("a secret of the backend")
    if kind == "http":
        raise HTTPException(451, "for legal reasons", headers={"X-Why": "law"})
    if kind == "object":
        return object()
    if kind == "exit":
        raise SystemExit(3)
    return {"complex": 1j}


@pytest.fixture(scope="module")
def failures(module_serving: Serving) -> Served:
    """A backend that fails."""
    return module_serving(failing)


@pytest.mark.parametrize("kind", ["raise", "object", "exit", "complex"])
def test_a_failure_is_a_problem_without_its_cause(failures: Served, http: httpx.Client, kind: str) -> None:
    """500 application/problem+json with the request id; class and text are for the log."""
    answer = http.get(failures.route, params={"kind": kind})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert not re.search("secret|Error|object|complex|Traceback", answer.text.replace("Internal Server Error", ""))


def test_an_http_exception_gives_its_status(failures: Served, http: httpx.Client) -> None:
    """And its detail and headers."""
    answer = http.get(failures.route, params={"kind": "http"})
    assert (answer.status_code, answer.headers["x-why"]) == (451, "law")
    assert "for legal reasons" in answer.text


def test_debug_shows_the_traceback(start: Callable[..., serve.Client]) -> None:
    """On loopback only, which config checks."""
    client = start(http_options={"port": 0, "debug": True})
    client.create_backend("b", failing)
    client.create_endpoint("e", backend="b", route="/e")
    answer = httpx.get(f"{client.http_urls[0]}/e?kind=raise", trust_env=False, timeout=30)
    assert answer.status_code == 500
    assert "ValueError: a secret of the backend" in answer.json()["traceback"]


# Routes


def test_an_unknown_path_names_itself_and_the_routes(http: httpx.Client) -> None:
    """404 as a problem."""
    answer = http.get("/nowhere")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "/nowhere" in answer.text
    assert "/-/routes" in answer.text


def test_a_wrong_method_is_told_the_right_ones(serving: Serving, http: httpx.Client) -> None:
    """405 with Allow, HEAD beside GET."""
    served = serving(backends.version_1, methods=["GET", "PUT"])
    answer = http.post(served.route)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, PUT")


def test_there_is_no_redirect_for_a_slash(results: Served, http: httpx.Client) -> None:
    """A path with a slash at its end is another path."""
    assert http.get(f"{results.route}/").status_code == 404


def test_routes_are_listed(client: serve.Client, serving: Serving, http: httpx.Client) -> None:
    """{route: [endpoint, [methods]]}."""
    served = serving(backends.version_1, path="/{id:int}", methods=["PUT", "GET"])
    assert http.get("/-/routes").json()[served.route] == [served.name, ["GET", "PUT"]]


def test_live_and_ready(results: Served, http: httpx.Client) -> None:
    """Both are 200 while every endpoint has a replica."""
    assert [http.get(path).status_code for path in ("/-/live", "/-/ready")] == [200, 200]


@pytest.mark.parametrize("path", ["/-/", "/-/metrics", "/-/routes/x"])
def test_reserved_paths_are_nobodys(http: httpx.Client, path: str) -> None:
    """404."""
    assert http.get(path).status_code == 404


def test_a_reserved_route_is_refused(client: serve.Client, serving: Serving) -> None:
    """Everything under /-/ is the proxy's."""
    name = serving.backend(backends.version_1)
    with pytest.raises(ValueError, match="/-/"):
        client.create_endpoint(name, backend=name, route="/-/mine")


# Requests


def test_the_request_is_as_it_was_sent(serving: Serving, http: httpx.Client) -> None:
    """Method, path, query, repeated headers, cookies and body."""

    async def backend(request: Any) -> Any:
        return {
            "method": request.method,
            "path": request.url.path,
            "query": request.query_params.multi_items(),
            "header": request.headers.getlist("x-many"),
            "cookies": request.cookies,
            "body": (await request.body()).decode(),
            "host": request.headers["host"],
            "client": request.client.host,
        }

    served = serving(backend, path="/{rest:path}", methods=["PATCH"])
    answer = http.patch(
        f"/{served.name}/a/b%20c?x=1&y=ä&x=2",
        headers=[("X-Many", "one"), ("X-Many", "two"), ("Cookie", "k=v; l=w")],
        content="the body",
    )
    assert answer.json() == {
        "method": "PATCH",
        "path": f"/{served.name}/a/b c",
        "query": [["x", "1"], ["y", "ä"], ["x", "2"]],
        "header": ["one", "two"],
        "cookies": {"k": "v", "l": "w"},
        "body": "the body",
        "host": urlsplit(str(http.base_url)).netloc,
        "client": "127.0.0.1",
    }


async def digest(request: Any) -> Any:
    """Read the body in chunks; return how many bytes there were and their hash."""
    import hashlib

    size, found = 0, hashlib.sha256()
    async for chunk in request.stream():
        size += len(chunk)
        found.update(chunk)
    return [size, found.hexdigest()]


@pytest.mark.parametrize("size", [0, 1, 70_000, 10_000_000])
def test_a_body_arrives_whole(serving: Serving, http: httpx.Client, size: int) -> None:
    """With a length or in chunks."""
    import hashlib

    served = serving(digest)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    expected = [size, hashlib.sha256(body).hexdigest()]
    assert http.post(served.route, content=body).json() == expected
    chunks = (body[n : n + 9_999] for n in range(0, size, 9_999))
    assert http.post(served.route, content=chunks).json() == expected


def test_a_body_that_is_not_read_does_no_harm(serving: Serving, http: httpx.Client) -> None:
    """The answer comes, and so does the next one."""
    served = serving(backends.version_1)
    for _ in range(3):
        assert http.post(served.route, content=b"x" * 3_000_000).text == "v1"


def test_a_body_above_the_limit_is_refused(start: Callable[..., serve.Client], tmp_path: Path) -> None:
    """413, with a length or in chunks."""
    client = start(http_options={"port": 0, "max_body_bytes": 1000})
    client.create_backend("b", digest)
    client.create_endpoint("e", backend="b", route="/e", methods=["POST"])
    url = f"{client.http_urls[0]}/e"
    assert httpx.post(url, content=b"x" * 1000, trust_env=False, timeout=30).status_code == 200
    assert httpx.post(url, content=b"x" * 1001, trust_env=False, timeout=30).status_code == 413
    assert httpx.post(url, content=iter([b"x" * 600] * 2), trust_env=False, timeout=30).status_code == 413


# Streams


def test_a_generator_streams(serving: Serving, http: httpx.Client) -> None:
    """Text as text/plain, as soon as it is there."""

    async def backend(request: Any) -> AsyncIterator[str]:
        yield "first "
        yield "second"

    with http.stream("GET", serving(backend).route) as answer:
        assert answer.headers["content-type"] == TEXT
        assert "".join(answer.iter_text()) == "first second"


def test_a_stream_arrives_item_by_item(serving: Serving, http: httpx.Client, tmp_path: Path) -> None:
    """The first is there before the second is made."""

    async def backend(request: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await reached((tmp_path / "open").exists)
        yield b"second"

    with http.stream("GET", serving(backend).route) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        (tmp_path / "open").touch()
        assert b"".join(chunks) == b"second"


def test_a_streaming_response_streams(serving: Serving, http: httpx.Client) -> None:
    """Starlette's own, from a `def` too."""

    def backend(request: Any) -> Response:
        return StreamingResponse((f"{n};" for n in range(1000)), media_type="text/event-stream")

    answer = http.get(serving(backend).route)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text == "".join(f"{n};" for n in range(1000))


def test_a_large_answer_arrives_whole(serving: Serving, http: httpx.Client) -> None:
    """Far above any buffer."""
    assert http.get(serving(lambda request: b"0123456789" * 2_000_000).route).content == b"0123456789" * 2_000_000


def test_a_stream_that_fails_breaks_off(serving: Serving, http: httpx.Client) -> None:
    """The client can tell it from one that ended."""

    async def backend(request: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise ValueError("too late for a status")

    served = serving(backend)
    with pytest.raises(httpx.RemoteProtocolError), http.stream("GET", served.route) as answer:
        list(answer.iter_raw())
    assert http.get("/-/live").status_code == 200


def test_a_background_task_runs_in_the_replica(serving: Serving, http: httpx.Client, tmp_path: Path) -> None:
    """After the answer."""

    def backend(request: Any) -> Response:
        return Response(b"answer", background=BackgroundTask((tmp_path / "ran").touch))

    assert http.get(serving(backend).route).text == "answer"
    wait_until((tmp_path / "ran").exists)


def test_a_redirect_is_passed_on(serving: Serving, http: httpx.Client) -> None:
    """As any Response."""
    answer = http.get(serving(lambda request: RedirectResponse("/there", 303)).route)
    assert (answer.status_code, answer.headers["location"]) == (303, "/there")


def test_repeated_headers_of_an_answer_stay(serving: Serving, http: httpx.Client) -> None:
    """Cookies, for one."""

    def backend(request: Any) -> Response:
        response = Response(b"")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    cookies = http.get(serving(backend).route).headers.get_list("set-cookie")
    assert [cookie[:3] for cookie in cookies] == ["a=1", "b=2"]
    http.cookies.clear()


def test_work_is_cancelled_when_the_client_leaves(serving: Serving, http: httpx.Client, tmp_path: Path) -> None:
    """User code sees CancelledError, and the slot comes free."""

    async def backend(request: Any) -> str:
        if request.method == "POST":
            return "free"
        (tmp_path / "begun").touch()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            (tmp_path / "cancelled").touch()
            raise
        return "never"

    served = serving(backend, config={"max_concurrent_queries": 1})
    where = urlsplit(str(http.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(f"GET {served.route} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until((tmp_path / "begun").exists)
    wait_until((tmp_path / "cancelled").exists)
    assert http.post(served.route).text == "free"


# Headers


def test_every_answer_has_a_request_id(results: Served, http: httpx.Client) -> None:
    """Its own, or the one the client gave."""
    first, second = (http.get(results.route, params={"name": "int"}).headers["x-request-id"] for _ in range(2))
    assert first != second
    given = http.get(results.route, params={"name": "int"}, headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("given", ["", "a b", "<script>", "x" * 200])
def test_an_odd_request_id_is_replaced(results: Served, http: httpx.Client, given: str) -> None:
    """It ends up in logs."""
    answer = http.get(results.route, params={"name": "int"}, headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] != given


def test_control_headers_never_pass(serving: Serving, http: httpx.Client) -> None:
    """In either direction."""

    def backend(request: Any) -> Response:
        seen = [name for name in request.headers if name.startswith("x-serve")]
        return JSONResponse(seen, headers={"X-Serve-Executed": "no", "X-Serve-Anything": "1", "X-Mine": "1"})

    headers = {"X-Serve-Shard-Key": "k", "X-Serve-Invented": "1", "X-Serve-Executed": "no"}
    answer = http.get(serving(backend).route, headers=headers)
    assert answer.json() == []
    assert [name for name in answer.headers if name.startswith("x-serve")] == []
    assert answer.headers["x-mine"] == "1"


@pytest.mark.parametrize("name", ["X-SERVE-CALL-METHOD", "X-SERVE-SHARD-KEY"])
@pytest.mark.parametrize("values", [[""], ["a", "b"], ["ä".encode()]], ids=["empty", "repeated", "not ASCII"])
def test_a_malformed_control_header_is_a_400(results: Served, http: httpx.Client, name: str, values: list[Any]) -> None:
    """Nothing was started."""
    headers = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for value in values]
    answer = http.get(results.route, params={"name": "int"}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


# Methods


class Methods:
    """What can be called over HTTP."""

    def __call__(self, request: Any) -> str:
        """Be called by default."""
        return "call"

    def by_request(self, request: Any) -> Any:
        """Get the request."""
        return type(request).__name__

    def by_data(self, data: Any = None, *, more: str = "") -> Any:
        """Get data and keywords."""
        return [type(data).__name__, data, more]

    def nothing(self) -> str:
        """Take nothing."""
        return "nothing"

    def _private(self) -> None: ...


@pytest.fixture(scope="module")
def methods(module_serving: Serving) -> Served:
    """A backend with several methods."""
    return module_serving(Methods)


def call_method(http: httpx.Client, methods: Served, name: str, **options: Any) -> httpx.Response:
    """Call a method over HTTP."""
    headers = {"X-SERVE-CALL-METHOD": name, **options.pop("headers", {})}
    return http.post(methods.route, headers=headers, **options)


def test_the_data_is_the_parsed_json_or_the_raw_body(methods: Served, http: httpx.Client) -> None:
    """By Content-Type; None when empty. Query parameters are the keyword arguments."""
    assert call_method(http, methods, "by_data", json={"a": 1}).json() == ["dict", {"a": 1}, ""]
    assert call_method(http, methods, "by_data", content=b"raw").json() == ["bytes", "raw", ""]
    assert call_method(http, methods, "by_data", params={"more": "m"}).json() == ["NoneType", None, "m"]


def test_a_method_that_takes_the_request_gets_it(methods: Served, http: httpx.Client) -> None:
    """Starlette's."""
    assert call_method(http, methods, "by_request").text == "Request"


@pytest.mark.parametrize(
    "options",
    [
        {"name": "nothing", "content": b"data"},
        {"name": "by_data", "params": {"unknown": "1"}},
        {"name": "by_data", "content": b"{", "headers": {"Content-Type": "application/json"}},
        {"name": "by_data", "content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}},
    ],
    ids=["data", "keyword", "no JSON", "deep JSON"],
)
def test_a_wrong_call_is_a_400(methods: Served, http: httpx.Client, options: dict[str, Any]) -> None:
    """It is the client's mistake."""
    assert call_method(http, methods, **options).status_code == 400


@pytest.mark.parametrize("name", ["_private", "__init__", "__class__", "missing", "reconfigure"])
def test_another_name_is_a_404(methods: Served, http: httpx.Client, name: str) -> None:
    """No name is listed."""
    answer = call_method(http, methods, name)
    assert answer.status_code == 404
    assert "by_data" not in answer.text


# Overload and time


def test_overload_is_a_503(serving: Serving, http: httpx.Client, tmp_path: Path) -> None:
    """With Retry-After and the proof that nothing ran."""
    served = serving(backends.Gate, tmp_path, config={"max_concurrent_queries": 1, "max_queued_queries": 0})
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(served.handle.call, 1)
        wait_until((tmp_path / "begun-1").exists)
        answer = http.get(served.route)
        (tmp_path / "open").touch()
        assert first.result(20) == 1
    assert (answer.status_code, answer.headers["x-serve-executed"]) == (503, "no")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_request_past_its_time_is_a_504(start: Callable[..., serve.Client], tmp_path: Path) -> None:
    """After request_timeout_s of the proxy."""

    async def hanging(request: Any) -> None:
        await asyncio.Event().wait()

    client = start(http_options={"port": 0, "request_timeout_s": 0.3})
    client.create_backend("b", hanging)
    client.create_endpoint("e", backend="b", route="/e")

    def executed() -> str:
        answer = httpx.get(f"{client.http_urls[0]}/e", trust_env=False, timeout=30)
        assert answer.status_code == 504
        return answer.headers["x-serve-executed"]

    wait_until_equal(executed, "unknown")  # "no" while the proxy and the replica still get to know each other


# Middlewares


class Stamp:
    """A middleware in ASGI form that adds its name to a header of every answer."""

    def __init__(self, app: Any, name: str) -> None:
        self.app, self.name = app, name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""

        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", self.name.encode())]
            await send(message)

        await self.app(scope, receive, stamped)


def test_middlewares_wrap_everything_the_first_outermost(start: Callable[..., serve.Client]) -> None:
    """404s, /-/ and refusals of the edge too, which the status of the instance counts."""
    stamps = [Middleware(Stamp, name="outer"), Middleware(Stamp, name="inner")]
    client = start(http_options={"port": 0, "max_body_bytes": 10, "middlewares": stamps})
    client.create_backend("b", backends.version_1)
    client.create_endpoint("e", backend="b", route="/e")
    for path in ("/e", "/nowhere", "/-/live", "/-/routes"):
        answer = httpx.get(client.http_urls[0] + path, trust_env=False, timeout=30)
        assert (path, answer.headers.get_list("x-stamp")) == (path, ["inner", "outer"]), answer.text
    for options, status in (({"content": b"x" * 11}, 413), ({"headers": {"Host": "evil.example"}}, 421)):
        answer = httpx.request("GET", f"{client.http_urls[0]}/e", trust_env=False, **options, timeout=30)
        assert (answer.status_code, answer.headers.get_list("x-stamp")) == (status, ["inner", "outer"])
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    (proxy,) = client.status()["proxies"].values()
    assert proxy["refused"] == {"404": 1, "413": 1, "421": 1}


def test_keep_alive_connections_carry_many_requests(serving: Serving, http: httpx.Client) -> None:
    """Pipelined ones too, answered in order."""
    served = serving(lambda request: request.query_params["n"])
    where = urlsplit(str(http.base_url))
    asked = "".join(f"GET {served.route}?n={n} HTTP/1.1\r\nHost: localhost\r\n\r\n" for n in range(20))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(asked.encode() + b"GET /-/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = connection.makefile("rb").read()
    bodies = re.findall(rb"\r\n\r\n(\w+)", answers)
    assert [body.split(b"HTTP")[0] for body in bodies] == [*(b"%d" % n for n in range(20)), b"ok"]


def test_iterating_a_dict_view_is_json(serving: Serving, http: httpx.Client) -> None:
    """A generator expression streams; a list of what it makes is JSON."""

    def backend(request: Any) -> Iterator[str]:
        return (letter for letter in "abc")

    assert http.get(serving(backend).route).text == "abc"


def test_a_proxy_serves_over_tls(start: Callable[..., serve.Client], tmp_path: Path) -> None:
    """`http_urls` says https, and the backend knows."""
    certificate = make_certificate(tmp_path)
    client = start(http_options={"port": 0, **certificate.options})
    client.create_backend("b", lambda request: request.url.scheme)
    client.create_endpoint("e", backend="b", route="/e")
    (url,) = client.http_urls
    assert url.startswith("https://127.0.0.1:")
    with httpx.Client(verify=certificate.client, trust_env=False, timeout=30) as http:
        assert http.get(f"{url}/e").text == "https"
