"""Bodies around the size that fits into a head, with a length and in chunks, through every front to every backend.

What arrives depends neither on the framing nor on the size.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import bottle
import httpx
import pytest
from django.core.handlers.wsgi import WSGIRequest
from flask import Flask
from flask import request as flask_request
from starlette.requests import Request
from starlette.responses import JSONResponse
from werkzeug.serving import make_server

import serve_bridge as serve
from serve_bridge.adapters import Bridge, RouteSpec, load_adapter
from serve_bridge.forwarding.allowance import MAX_KEPT_BYTES
from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.replica.wsgi_request import SPOOL_BYTES
from serve_bridge.testing.servers import serve_asgi, serve_wsgi
from serve_bridge.user_code.application import Application
from serve_bridge.wire.heads import INLINE_BODY_BYTES
from tests.behaviour.support.applications import WsgiReading
from tests.support.waiting import wait_until

SIZES: Final = (0, 1, INLINE_BODY_BYTES - 1, INLINE_BODY_BYTES, INLINE_BODY_BYTES + 1, SPOOL_BYTES + 1)


# Backends: each returns how many bytes have reached it


async def awaited(request: Any) -> int:
    """Await the body."""
    return len(await request.body())


async def streamed(request: Any) -> int:
    """Read the body as it comes."""
    return sum([len(chunk) async for chunk in request.stream()])


def passed_on(request: Any) -> int:
    """Pass the request on, unread, from a thread."""
    size: int = serve.get_handle("awaited").call(request)
    return size


async def passed_on_async(request: Any) -> int:
    """Pass the request on, unread, on the loop."""
    size: int = await serve.get_handle("awaited").acall(request)
    return size


def passed_on_twice(request: Any) -> int:
    """Pass the request on to what passes it on."""
    size: int = serve.get_handle("passed_on").call(request)
    return size


class Data:
    """Has a method that takes the body as its data."""

    def take(self, data: bytes | None = None) -> int:
        """Count it."""
        return len(data or b"")

    async def __call__(self, request: Any) -> int:
        """Pass the body on as data."""
        size: int = await serve.get_handle("data").options(method_name="take").acall(await request.body())
        return size


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Be an ASGI application."""
    body = await Request(scope, receive).body()
    await JSONResponse(len(body))(scope, receive, send)


async def told(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the length in the scope."""
    await JSONResponse(scope[BODY_LENGTH])(scope, receive, send)


async def too_late(request: Any) -> str:
    """Pass on a request of which something was read."""
    async for _ in request.stream():
        break
    handle, errors = serve.get_handle("awaited"), []
    for call in (handle.acall(request), asyncio.to_thread(handle.call, request)):
        try:
            errors.append(await call)
        except serve.SerializationError as error:
            errors.append(str(error))
    return json.dumps(errors)


flask_app = Flask(__name__)
bottle_app = bottle.Bottle()


@flask_app.route("/x", methods=["POST"])
@flask_app.route("/flask/x", methods=["POST"])
def flask_view() -> str:
    """Count the body."""
    return str(len(flask_request.get_data()))


@bottle_app.post(["/x", "/bottle/x"])  # type: ignore[untyped-decorator]
def bottle_view() -> str:
    """Count the body."""
    with bottle.request.body as body:  # Bottle leaves its temporary file to the garbage collector
        return str(len(body.read()))


def django_app(environ: Any, start_response: Any) -> list[bytes]:
    """Read the body as Django does."""
    size = len(WSGIRequest(environ).read())
    start_response("200 OK", [])
    return [b"%d" % size]


def plain_app(environ: Any, start_response: Any) -> list[bytes]:
    """Read as many bytes as CONTENT_LENGTH says."""
    size = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    start_response("200 OK", [])
    return [b"%d" % size]


OTHERS: Final[dict[str, Any]] = {"told": serve.asgi_app(told), "too_late": too_late}
BACKENDS: Final[dict[str, Any]] = {
    "awaited": awaited,
    "streamed": streamed,
    "passed_on": passed_on,
    "passed_on_async": passed_on_async,
    "passed_on_twice": passed_on_twice,
    "data": Data,
    "asgi": serve.asgi_app(asgi),
    "flask": serve.wsgi_app(flask_app),
    "bottle": serve.wsgi_app(bottle_app),
    "django": serve.wsgi_app(django_app),
    "plain": serve.wsgi_app(plain_app),
}


# Fronts


@contextmanager
def served_by_werkzeug(app: Any) -> Iterator[str]:
    """Serve a WSGI application by a server that takes chunks, a thread for each request."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FRONTS: Final = ("proxy", "asgi", "starlette", "django-asgi", "wsgi", "flask", "django")


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance with all backends, each with a route of its own."""
    client = serve.start(runtime="local", name="body-lengths", http_options={"port": 0})
    for name, code in {**BACKENDS, **OTHERS}.items():
        client.create_backend(name, code)
        route: dict[str, Any] = {"route": f"/{name}/x", "methods": ["POST"]}
        if isinstance(code, Application):
            route = {"route": f"/{name}"}
        client.create_endpoint(name, backend=name, **route)
    yield client
    client.shutdown()


@pytest.fixture(scope="module", params=FRONTS)
def url(request: pytest.FixtureRequest, client: serve.Client) -> Iterator[str]:
    """The base URL of each front in turn."""
    if request.param == "proxy":
        yield client.http_urls[0]
        return
    adapter = load_adapter(request.param)
    bridge = Bridge(client.address)
    routes = [RouteSpec(f"/{name}/x", name, ("POST",)) for name in (*BACKENDS, "too_late")]
    serve_app: Callable[[Any], Any] = serve_asgi if adapter.interface == "asgi" else served_by_werkzeug
    with serve_app(adapter.application(bridge, routes)) as base:
        yield base
    bridge.close()


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    """A client of the front."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        yield http


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("framing", ["length", "chunks", "chunks, named by Connection"])
def test_a_body_arrives_whole_whatever_its_size(http: httpx.Client, backend: str, framing: str) -> None:
    """The backend gets as many bytes as were sent."""
    headers = {"Connection": "transfer-encoding"} if "named" in framing else {}
    arrived = {}
    for size in SIZES:
        content = b"x" * size if framing == "length" else iter([b"x" * size])
        answer = http.post(f"/{backend}/x", content=content, headers=headers)
        arrived[size] = answer.text if answer.is_success else answer.status_code
    assert arrived == {size: str(size) for size in SIZES}


@pytest.mark.parametrize("front", ["wsgi", "flask", "django"])
def test_a_body_whose_end_the_server_hides_is_refused(client: serve.Client, front: str) -> None:
    """Servers made of `wsgiref` do; 411 says so, where an empty body would look like the client's own."""
    bridge = Bridge(client.address)
    application = load_adapter(front).application(bridge, [RouteSpec("/awaited/x", "awaited", ("POST",))])
    with serve_wsgi(application) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        assert http.post("/awaited/x", content=iter([b"x" * 10])).status_code == 411
        assert http.post("/awaited/x", content=b"x" * 10).text == "10"
    bridge.close()


def test_a_chunked_body_arrives_though_a_django_middleware_asked_for_it(client: serve.Client) -> None:
    """Without a Content-Length Django takes the body for empty, but reads nothing of it."""

    def asking(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def middleware(request: Any) -> Any:
            assert request.body == b""
            return get_response(request)

        return middleware

    bridge = Bridge(client.address)
    app: Any = load_adapter("django").application(bridge, [RouteSpec("/awaited/x", "awaited", ("POST",))])
    app._middleware_chain = asking(app._middleware_chain)
    with served_by_werkzeug(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        assert http.post("/awaited/x", content=iter([b"x" * 10])).text == "10"
    bridge.close()


@pytest.mark.parametrize("size", [1, INLINE_BODY_BYTES, INLINE_BODY_BYTES + 1])
def test_a_request_that_was_streamed_cannot_be_passed_on(http: httpx.Client, size: int) -> None:
    """The error says what to do; it is no empty body."""
    errors = http.post("/too_late/x", content=b"x" * size).json()
    assert ["await request.body()" in str(error) for error in errors] == [True, True]


def test_the_scope_of_an_asgi_application_holds_the_length(client: serve.Client) -> None:
    """As a fact, beside the headers; a client's own header does not change it."""
    told = []
    for content in (b"", b"x" * 100_000, iter([b"x" * 100_000])):
        answer = httpx.post(f"{client.http_urls[0]}/told", content=content, trust_env=False, timeout=30)
        told.append(answer.json())
    assert told[:2] == [0, 100_000]
    assert told[2] in (None, 100_000)  # it is known when all of the body has come with the head


def test_a_broken_upload_leaves_no_temporary_file(client: serve.Client) -> None:
    """The replica closes the file that it has received a body of unknown length in, though no application reads it."""
    before = _unnamed_files()

    def part() -> Iterator[bytes]:
        yield b"x" * (MAX_KEPT_BYTES + 2 * SPOOL_BYTES)  # more than is kept in front of the replica
        wait_until(lambda: _unnamed_files() - before)
        raise InterruptedError

    bridge = Bridge(client.address)
    application = load_adapter("asgi").application(bridge, [RouteSpec("/plain/x", "plain", ("POST",))])
    with serve_asgi(application) as url:
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as leaving, pytest.raises(InterruptedError):
            leaving.post("/plain/x", content=part())
        wait_until(lambda: not _unnamed_files() - before)
    bridge.close()
    gc.collect()  # a file that the collector has to close is an error of this test


def _unnamed_files() -> set[str]:
    """Return the temporary files without a name that this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return {file for file in found if file.startswith(f"{tempfile.gettempdir()}/#")}


def test_a_broken_upload_is_an_error_to_a_wsgi_application(client: serve.Client, tmp_path: Path) -> None:
    """A body too long to be waited for is read as it comes, and must not look as if it were whole."""
    app = WsgiReading(str(tmp_path))
    client.create_backend("reading", serve.wsgi_app(app))
    client.create_endpoint("reading", backend="reading")

    def part() -> Iterator[bytes]:
        yield b"x" * 100_000
        wait_until(lambda: app.has("begun"))
        raise InterruptedError

    bridge = Bridge(client.address)
    application = load_adapter("asgi").application(bridge, [RouteSpec("/reading", "reading", ("POST",))])
    headers = {"Content-Length": str(MAX_KEPT_BYTES + 1)}
    with serve_asgi(application) as url:
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as leaving, pytest.raises(InterruptedError):
            leaving.post("/reading", content=part(), headers=headers)
        wait_until(lambda: app.has("failed"))
    assert (tmp_path / "failed").read_text() == "ConnectionResetError"
    bridge.close()
