"""One application of each framework, whose views call endpoints, and whose routes are forwarded.

Every application has the view `/ids`, which tells the id of its request and what the endpoint `seen` knows of it. The
view `/streamed` tells the same in the code of a streamed answer. Three paths lead to an endpoint that does not exist:
`/forwarded` is a forwarded route, `/called` a view that calls a handle, and `/caught` a view that catches what the
handle raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

import serve_bridge as serve
from serve_bridge.adapters.starlette.extension import ServeBridge, get_handle
from serve_bridge.errors import EndpointNotFound, NotConnected

Answer = tuple[int, Mapping[str, str], str]
Ask = Callable[[str, Mapping[str, str]], Answer]
Site = Callable[[str], AbstractContextManager[Ask]]

MISSING = "nowhere"
LOST = (EndpointNotFound, NotConnected)


def seen(request: Any) -> Any:
    """Return the id in a backend, and its header."""
    return [serve.request_id(), request.headers["x-request-id"]]


@contextmanager
def flask(address: str) -> Iterator[Ask]:
    """Yield what asks a Flask app."""
    from flask import Flask

    from serve_bridge.adapters.flask import ServeBridge

    app = Flask(__name__)
    app.config["SERVE_BRIDGE_ADDRESS"] = address
    bridge = ServeBridge(app)
    _add_flask_views(app, bridge.get_handle)
    app.add_url_rule("/forwarded", view_func=bridge.view(MISSING))

    def ask(path: str, headers: Mapping[str, str]) -> Answer:
        answer = app.test_client().get(path, headers=dict(headers))
        return answer.status_code, dict(answer.headers), answer.text

    with closing(app.extensions["serve_bridge"]):
        yield ask


def ids_later(handle_of: Callable[[str], serve.Handle]) -> Iterator[str]:
    """Yield the text of `/ids` in pieces; the code runs when a server asks for them."""
    yield json.dumps([serve.request_id(), *handle_of("seen").call()])[:-1]
    yield f', "{serve.request_id()}"]'


async def ids_later_async(handle_of: Callable[[str], serve.Handle]) -> AsyncIterator[str]:
    """Yield the same on a loop."""
    yield json.dumps([serve.request_id(), *await handle_of("seen").acall()])[:-1]
    yield f', "{serve.request_id()}"]'


def _add_flask_views(app: Any, get_handle: Callable[[str], serve.Handle]) -> None:
    from flask import stream_with_context

    @app.get("/streamed")
    def streamed() -> Any:
        return stream_with_context(ids_later(get_handle))

    @app.get("/ids")
    def ids() -> Any:
        return [serve.request_id(), *get_handle("seen").call()]

    @app.get("/called")
    def called() -> Any:
        return get_handle(MISSING).call()

    @app.get("/caught")
    def caught() -> Any:
        try:
            return get_handle(MISSING).call()
        except LOST:
            return "caught"


@contextmanager
def wsgi(address: str) -> Iterator[Ask]:
    """Yield what asks a plain WSGI application behind the middleware."""
    from werkzeug.test import Client

    from serve_bridge.adapters.wsgi.application import ServeBridge

    bridge = ServeBridge(address, routes={"/forwarded": MISSING})

    def app(environ: Any, start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/streamed":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return (piece.encode() for piece in ids_later(bridge.get_handle))
        if path == "/ids":
            text = repr([serve.request_id(), *bridge.get_handle("seen").call()]).replace("'", '"')
        else:
            text = _text(lambda: bridge.get_handle(MISSING).call(), caught=path == "/caught")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text.encode()]

    client = Client(bridge.middleware(app))

    def ask(path: str, headers: Mapping[str, str]) -> Answer:
        answer = client.get(path, headers=dict(headers))
        return answer.status_code, dict(answer.headers), answer.text

    with closing(bridge):
        yield ask


def _text(work: Callable[[], Any], *, caught: bool) -> str:
    try:
        return str(work())
    except LOST:
        if not caught:
            raise
        return "caught"


@contextmanager
def starlette(address: str) -> Iterator[Ask]:
    """Yield what asks a Starlette app."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    bridge = ServeBridge(address)
    routes = [Route(path, view) for path, view in _starlette_views(bridge).items()]
    with closing(bridge):
        yield _asking(Starlette(routes=[*routes, Route("/forwarded", bridge.forward(MISSING))]))


@contextmanager
def middleware(address: str) -> Iterator[Ask]:
    """Yield what asks a Starlette app that has the bridge as a middleware."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    from serve_bridge.adapters.asgi.application import ServeBridge, ServeBridgeMiddleware

    bridge = ServeBridge(address, routes={"/forwarded": MISSING})
    routes = [Route(path, view) for path, view in _starlette_views(bridge).items()]
    with closing(bridge):
        yield _asking(Starlette(routes=routes, middleware=[Middleware(ServeBridgeMiddleware, bridge=bridge)]))


def _starlette_views(bridge: Any) -> Mapping[str, Any]:
    from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

    def streamed(request: Any) -> Any:
        return StreamingResponse(ids_later_async(bridge.get_handle))

    async def ids(request: Any) -> Any:
        # Without the middleware nothing has looked at the request: its calls share no id.
        return JSONResponse([serve.request_id(), *await bridge.get_handle("seen").acall()])

    async def called(request: Any) -> Any:
        return JSONResponse(await bridge.get_handle(MISSING).acall())

    def caught(request: Any) -> Any:
        return PlainTextResponse(_text(lambda: bridge.get_handle(MISSING).call(), caught=True))

    return {"/ids": ids, "/streamed": streamed, "/called": called, "/caught": caught}


@contextmanager
def fastapi(address: str) -> Iterator[Ask]:
    """Yield what asks a FastAPI app: a stub, and views with handles."""
    bridge = ServeBridge(address)
    app = FastAPI()
    app.state.serve_bridge = bridge

    @app.get("/ids")
    async def ids(
        one: Annotated[serve.Handle, Depends(get_handle("seen"))],
        other: Annotated[serve.Handle, Depends(get_handle("seen", timeout_s=5))],
    ) -> Any:
        told = await one.acall()
        assert await other.acall() == told
        return [serve.request_id(), *told]

    @app.get("/streamed")
    async def streamed(handle: Annotated[serve.Handle, Depends(get_handle("seen"))]) -> Any:
        return StreamingResponse(ids_later_async(lambda name: handle))

    @app.get("/called")
    def called(handle: Annotated[serve.Handle, Depends(get_handle(MISSING))]) -> Any:
        return handle.call()

    @app.get("/caught")
    def caught(handle: Annotated[serve.Handle, Depends(get_handle(MISSING))]) -> Any:
        return _text(handle.call, caught=True)

    @app.get("/forwarded")
    @bridge.endpoint(MISSING)
    async def stub() -> None: ...

    with closing(bridge):
        yield _asking(app)


def _asking(app: Any) -> Ask:
    async def request(path: str, headers: Mapping[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
            return await client.get(path, headers=headers)

    def ask(path: str, headers: Mapping[str, str]) -> Answer:
        answer = asyncio.run(request(path, headers))
        return answer.status_code, answer.headers, answer.text.replace('"caught"', "caught")

    return ask


@contextmanager
def django(address: str) -> Iterator[Ask]:
    """Yield what asks a Django project; the settings are those of the test."""
    from django.test import Client

    def ask(path: str, headers: Mapping[str, str]) -> Answer:
        answer = Client(raise_request_exception=False).get(path, headers=headers)
        return answer.status_code, dict(answer.items()), answer.getvalue().decode()

    yield ask


@contextmanager
def async_django(address: str) -> Iterator[Ask]:
    """Yield what asks a Django project under ASGI, by `async def` views."""
    from django.core.asgi import get_asgi_application

    ask = _asking(get_asgi_application())
    yield lambda path, headers: ask(f"/async{path}", headers)


@contextmanager
def wrapped_django(address: str) -> Iterator[Ask]:
    """Yield what asks a Django project behind the ASGI wrapper, which answers one route."""
    from django.core.asgi import get_asgi_application

    from serve_bridge.adapters.django.asgi import ServeBridge

    ask = _asking(ServeBridge(get_asgi_application(), routes={"/async/forwarded": MISSING}))
    yield lambda path, headers: ask(f"/async{path}", headers)


SITES: Mapping[str, Site] = {
    made.__name__: made for made in (flask, wsgi, starlette, middleware, fastapi, django, async_django, wrapped_django)
}
