"""WSGI applications behind every front: what of the path, and of their own odd types, arrives as under gunicorn."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx
import pytest
from django.utils.safestring import SafeString
from markupsafe import Markup

import serve_bridge as serve
from serve_bridge.adapters import RouteSpec
from serve_bridge.testing.raw_exchange import RawExchange
from tests.adapters.support.all_fronts import FRONTS, front


class Status(enum.StrEnum):
    """A status line."""

    TEAPOT = "418 I'm a teapot"


class Name(str, enum.Enum):  # noqa: UP042  # `str` of its members is not their value
    """A header's name and value."""

    OWN = "X-Own"
    VALUE = "value"


class Page(bytes):
    """A body."""

    def __bytes__(self) -> bytes:
        return b"another"


def paths(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Return where the request was for."""
    body = json.dumps([environ["SCRIPT_NAME"], environ["PATH_INFO"]]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def odd_types(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with subclasses of str and bytes."""
    headers = [(Name.OWN, Name.VALUE), (Markup("X-Markup"), SafeString("safe")), (SafeString("Content-Type"), "a/b")]
    write = start_response(Status.TEAPOT, headers)
    if "write" in environ["QUERY_STRING"]:
        write(Page(b"one"))
        return [Page(b"two")]
    return [Page(b"onetwo")]


@pytest.fixture(scope="module")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """An instance with both applications."""
    client = serve.start(runtime="local", name="wsgi-backends", http_options={"port": 0})
    for app in (paths, odd_types):
        client.create_backend(app.__name__, serve.wsgi_app(app))
        client.create_endpoint(app.__name__, backend=app.__name__, route=f"/{app.__name__}/{{tenant}}")
    yield client
    client.shutdown()


@pytest.fixture(scope="module", params=FRONTS)
def http(request: pytest.FixtureRequest, engine: serve.Client) -> Iterator[httpx.Client]:
    """A client of each front in turn."""
    routes = [RouteSpec(f"/{name}/{{tenant}}/{{path:path}}", name, ("GET",)) for name in ("paths", "odd_types")]
    with front(request.param, engine, routes) as http:
        yield http


@pytest.mark.parametrize(
    ("tenant", "below"),
    [
        ("t", "/plain"),
        ("t", "/gr%C3%BC%C3%9Fe/x"),
        ("t", "/caf%E9"),
        ("caf%E9", "/x"),
        ("caf%E9", "/%FF%FE/%C3%BC"),
        ("%C3%BC", "/a%20b%25C3%25A9"),
        ("t", "/%2541/%E9"),
    ],
)
def test_path_info_has_the_paths_own_bytes(http: httpx.Client, tenant: str, below: str) -> None:
    """Each as one character (PEP 3333), though they may not be UTF-8; so has SCRIPT_NAME."""
    with RawExchange(str(http.base_url).rstrip("/"), "GET", f"/paths/{tenant}{below}") as exchange:
        exchange.end()
        head = exchange.head()
        body = exchange.read_at_least(10_000)
    assert head.status_code == 200, body
    assert json.loads(body) == [_latin(f"/paths/{tenant}"), _latin(below)]


def _latin(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1")


@pytest.mark.parametrize("query", ["", "?write"])
def test_subclasses_of_str_and_bytes_are_their_values(http: httpx.Client, query: str) -> None:
    """In status, headers and bodies, whatever their own `__str__` says."""
    answer = http.get(f"/odd_types/t/x{query}")
    assert (answer.status_code, answer.headers["x-own"], answer.headers["x-markup"]) == (418, "value", "safe")
    assert answer.content == b"onetwo"
