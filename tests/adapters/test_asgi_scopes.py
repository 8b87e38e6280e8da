"""Scopes that lack what ASGI calls optional, and minimal ones as tests make them: absent stays absent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge.adapters import Bridge, RouteSpec, load_adapter
from serve_bridge.adapters.asgi.application import ServeBridge, ServeBridgeMiddleware
from serve_bridge.adapters.django.asgi import ServeBridge as DjangoWrapper
from tests.adapters.support.asgi_calls import body_of, called, http_scope, types_of

OPTIONAL = ("scheme", "raw_path", "root_path", "client", "server")
MINIMAL = ("http_version", "query_string", "headers", *OPTIONAL, "asgi")
ROUTES = [RouteSpec(f"/{name}", name, None) for name in ("scope", "request", "environ")]


async def scope_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the optional parts of the scope."""
    told = {name: repr(scope[name]) for name in OPTIONAL if scope.get(name) is not None}
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(told)})
        await send({"type": "websocket.close"})


async def request_facts(request: Any) -> Any:
    """Answer with what a ServeRequest says."""
    return [
        request.url.path,
        request.url.query,
        request.method,
        request.headers.items(),
        (await request.body()).decode(),
    ]


def environ_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with what PEP 3333 promises to be there."""
    names = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ[name] for name in names]).encode()]


@pytest.fixture(scope="module")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """An instance with a backend of each kind."""
    client = serve.start(runtime="local", name="scopes", http_options={"location": "NoServer"})
    backends = {"scope": serve.asgi_app(scope_app), "request": request_facts, "environ": serve.wsgi_app(environ_app)}
    for name, backend in backends.items():
        client.create_backend(name, backend)
        client.create_endpoint(name, backend=name)
    yield client
    client.shutdown()


@pytest.fixture(scope="module", params=["asgi", "starlette", "django-asgi"])
def app(request: pytest.FixtureRequest, engine: serve.Client) -> Iterator[Any]:
    """An application of each adapter that has scopes."""
    bridge = Bridge(engine.address)
    yield load_adapter(request.param).application(bridge, ROUTES)
    bridge.close()


def without(scope: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return *scope* without the parts called *names*."""
    return {name: value for name, value in scope.items() if name not in names}


@pytest.mark.parametrize("missing", [(), *((name,) for name in MINIMAL), MINIMAL], ids=lambda names: "+".join(names))
def test_an_absent_part_stays_absent(app: Any, missing: tuple[str, ...]) -> None:
    """It does not become an empty value; the framework may know a scheme all the same."""
    sent = called(app, without(http_scope("/scope", root_path="", scheme="https"), *missing))
    assert sent[0]["status"] == 200
    told = json.loads(body_of(sent))
    assert told.get("raw_path") == (None if "raw_path" in missing else repr(b"/scope"))
    assert told.get("scheme") in ((None, repr("http")) if "scheme" in missing else (repr("https"),))
    for name in ("client", "server"):
        assert (told.get(name) is None) is (name in missing)
    if "root_path" in missing:
        assert "root_path" not in told


@pytest.mark.parametrize("name", ["request", "environ"])
def test_backends_cope_with_a_minimal_scope(app: Any, name: str) -> None:
    """Whatever is not optional to them has a value."""
    sent = called(app, without(http_scope(f"/{name}"), *MINIMAL))
    facts = json.loads(body_of(sent))
    if name == "request":
        assert facts[:3] == [f"/{name}", "", "GET"]
        assert facts[4] == ""
    else:
        assert facts[:3] == ["GET", "", f"/{name}"]
        assert facts[5] == "http"
        assert all(facts[3:])


def test_names_of_request_headers_are_compared_without_case(app: Any) -> None:
    """Tests and middlewares write them as they like; what must not pass does not."""
    given = [(b"X-Forwarded-For", b"1.2.3.4"), (b"X-Serve-Other", b"1"), (b"Cookie", b"a=b"), (b"X-Mine", b"1")]
    sent = called(app, http_scope("/request", headers=[(b"Host", b"testserver"), *given]))
    names = {name for name, _ in json.loads(body_of(sent))[3]}
    assert "x-mine" in names
    assert not {"x-forwarded-for", "x-serve-other", "cookie"} & {name.lower() for name in names}


@pytest.mark.parametrize("adapter", ["asgi", "starlette"])
def test_an_absent_part_of_a_websocket_stays_absent(engine: serve.Client, adapter: str) -> None:
    """As that of a request."""
    bridge = Bridge(engine.address)
    app = load_adapter(adapter).application(bridge, ROUTES)
    sent = called(app, {"type": "websocket", "path": "/scope"}, [{"type": "websocket.connect"}])
    bridge.close()
    assert types_of(sent)[:2] == ["websocket.accept", "websocket.send"]
    assert not {"raw_path", "scheme", "client", "server"} & json.loads(sent[1]["text"]).keys()


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("headers", [None, [(b"X-Request-Id", b"mine-1")]])
@pytest.mark.parametrize("wrap", [ServeBridgeMiddleware, DjangoWrapper])
def test_a_middleware_hands_on_a_scope_whatever_its_headers(wrap: Any, headers: Any, kind: str) -> None:
    """It reads the id of the request, which may have none."""
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(serve.request_id())

    scope = {"type": kind, "path": "/own", "method": "GET"} | ({} if headers is None else {"headers": headers})
    called(wrap(app, routes={"/forwarded": "scope"}), scope)
    assert seen[0]
    assert (seen == ["mine-1"]) is (headers is not None)


@pytest.mark.parametrize("headers", [None, [(b"X-Tenant", b"t")]])
def test_the_context_of_a_websocket_is_read_whatever_its_headers(engine: serve.Client, headers: Any) -> None:
    """Their names are compared without case, as those of a request."""
    seen: list[str | None] = []
    bridge = ServeBridge(engine.address)
    options: Any = {"context": lambda web: seen.append(web.headers.get("x-tenant")) or {}}
    scope = {"type": "websocket", "path": "/scope"} | ({} if headers is None else {"headers": headers})
    called(bridge.forward("scope", **options), scope, [{"type": "websocket.connect"}])
    bridge.close()
    assert seen == [None if headers is None else "t"]
