"""Forms that something has parsed before they are forwarded: each part is written again as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from django.test import override_settings
from fastapi import FastAPI, Form, UploadFile
from flask import request as flask_request

import serve_bridge as serve
from serve_bridge.adapters import Bridge, RouteSpec, load_adapter
from serve_bridge.adapters.starlette.extension import ServeBridge
from serve_bridge.testing.servers import serve_asgi, serve_wsgi

ROUTES = [RouteSpec("/parts", "parts", ("POST",))]
TYPES = {
    "plain": "text/csv",
    "charset": "text/csv; charset=utf-8",
    "quoted charset": 'text/csv; charset="utf-8"; header=present',
    "another charset": "text/csv; charset=iso-8859-15",
    "a value that needs quotes": 'application/x-own; title="a b; c=d"',
    "a quote in a value": r'application/x-own; title="say \"hi\""',
    "not ASCII": 'application/x-own; title="Grüße"',
    "none": None,
}


async def parts(request: Any) -> list[Any]:
    """Return each file of a form: its name, its type, its other headers, and its content."""
    async with request.form() as form:
        return [
            [file.filename, file.content_type, _others(file.headers), (await file.read()).decode()]
            for name, file in form.multi_items()
            if name != "text"
        ]


def _others(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in ("content-disposition", "content-type")}


class ReadPost:
    """Django middleware that parses every form."""

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Answer after that."""
        assert request.POST["text"] == "ü"
        return self._get_response(request)


@pytest.fixture(scope="module")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """An instance with the backend."""
    client = serve.start(runtime="local", name="forms", http_options={"location": "NoServer"})
    client.create_backend("parts", parts)
    client.create_endpoint("parts", backend="parts")
    yield client
    client.shutdown()


@contextmanager
def _django(bridge: Bridge) -> Iterator[str]:
    with override_settings(MIDDLEWARE=[f"{__name__}.ReadPost"]):
        app = load_adapter("django").application(bridge, ROUTES)
    with serve_wsgi(app) as url:
        yield url


@contextmanager
def _flask(bridge: Bridge) -> Iterator[str]:
    app: Any = load_adapter("flask").application(bridge, ROUTES)

    @app.before_request
    def read() -> None:
        assert flask_request.form["text"] == "ü"

    with serve_wsgi(app) as url:
        yield url


@contextmanager
def _fastapi(bridge: Bridge) -> Iterator[str]:
    app, owner = FastAPI(), ServeBridge(bridge.client().address)

    @app.post("/parts", response_model=None)
    @owner.endpoint("parts")
    async def _(text: str = Form(), file: UploadFile | None = None) -> Any: ...

    with serve_asgi(app) as url:
        yield url
    owner.close()


@pytest.fixture(scope="module", params=[_django, _flask, _fastapi], ids=["django", "flask", "fastapi"])
def url(request: pytest.FixtureRequest, engine: serve.Client) -> Iterator[str]:
    """The base URL of each framework's application in turn."""
    bridge = Bridge(engine.address)
    with request.param(bridge) as url:
        yield url
    bridge.close()


def posted(url: str, *headers: str) -> list[Any]:
    """Post a form with a text and a file whose part has *headers*; return what the backend has of the file."""
    lines = [
        *("--b", 'Content-Disposition: form-data; name="text"', "", "ü"),
        *("--b", *headers, "", "a;b", "--b--", ""),
    ]
    body = "\r\n".join(lines).encode()
    answer = httpx.post(
        f"{url}/parts", content=body, headers={"content-type": "multipart/form-data; boundary=b"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    (file,) = answer.json()
    return list(file)


DISPOSITION = 'Content-Disposition: form-data; name="file"; filename="f.csv"'


@pytest.mark.parametrize("kind", TYPES)
def test_a_part_keeps_its_type(url: str, kind: str) -> None:
    """With all parameters, as text and not as bytes of Python."""
    given = TYPES[kind]
    found = posted(url, DISPOSITION, *([f"Content-Type: {given}"] if given else []))
    assert found[0::3] == ["f.csv", "a;b"]
    # Starlette makes each byte of a part's header a character.
    sent = None if found[1] is None else found[1].encode("latin-1").decode()
    assert sent == (given and given.replace('"utf-8"', "utf-8").replace('"present"', "present")) or sent == given


@pytest.mark.parametrize("filename", ["ü ß.csv", r"say \"hi\".csv", "a;b=c.csv", "100%.csv"])
def test_a_part_keeps_its_filename(url: str, filename: str) -> None:
    """Whatever is in it."""
    found = posted(url, f'Content-Disposition: form-data; name="file"; filename="{filename}"', "Content-Type: text/csv")
    assert found[0] == filename.replace('\\"', '"')


def test_a_part_keeps_its_other_headers(url: str) -> None:
    """Where the framework does."""
    found = posted(url, DISPOSITION, "Content-Type: text/csv", "Content-Language: de", "X-Own: 1")
    kept = {"content-language": "de", "x-own": "1"}
    assert found[2] in (kept, {})
    assert found[1] == "text/csv"
