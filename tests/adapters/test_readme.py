"""Every Python block of README.md runs: the comment on its first line is the file that a reader would make of it."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings

import serve_bridge as serve
from serve_bridge.api import current_client
from tests.adapters.asgi_transport import asgi_client

README = Path(__file__).parents[2] / "README.md"
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", README.read_text(), re.DOTALL))
HAPPY = {"text": "a good day"}

Import = Callable[[str], types.ModuleType]


@pytest.fixture(scope="module")
def model(nothing_left: None) -> Iterator[serve.Client]:
    """The instance that model.py starts; here without Ray, and on a free port."""
    code = FILES["model.py"].replace("start()", 'start(runtime="local", http_options={"port": 0})')
    run("model.py", code)
    client = current_client()
    yield client
    client.shutdown()


def run(name: str, code: str | None = None) -> types.ModuleType:
    """Run a file of the README, as an import would; return its module."""
    module = types.ModuleType(name.removesuffix(".py"))
    exec(compile(code or FILES[name], f"README.md: {name}", "exec"), module.__dict__)
    return module


def test_every_python_block_names_its_file() -> None:
    """So that none goes untested."""
    assert len(FILES) == README.read_text().count("```python")
    tested = {"model.py", "flask_app.py", "urls.py", "starlette_app.py", "client.py", "release.py"}
    assert set(FILES) == tested


def test_the_flask_app_answers(model: serve.Client) -> None:
    """Both its forwarded route and its view."""
    app = run("flask_app.py").app
    http = app.test_client()
    assert http.post("/mood", json=HAPPY).json == {"happy": 1}
    assert http.post("/report", data=HAPPY).text == "1 happy words"
    app.extensions["serve_bridge"].close()


def test_the_django_project_answers(model: serve.Client) -> None:
    """Both its forwarded route and its view."""
    urls = run("urls.py")
    transport = httpx.WSGITransport(WSGIHandler())
    with (
        override_settings(ROOT_URLCONF=urls, SERVE_BRIDGE={}, ALLOWED_HOSTS=["*"]),
        httpx.Client(transport=transport, base_url="http://testserver") as http,
    ):
        token = {"cookie": f"csrftoken={'x' * 32}", "x-csrftoken": "x" * 32}
        assert http.post("/mood/", json=HAPPY, headers=token).json() == {"happy": 1}
        assert http.post("/report/", data=HAPPY, headers=token).json() == {"words": 1}


def test_the_starlette_app_answers(model: serve.Client) -> None:
    """Its forwarded route, its view, and its mount."""
    module = run("starlette_app.py")
    with asgi_client(module.app) as http:
        assert http.post("/mood", json=HAPPY).json() == {"happy": 1}
        assert http.get("/report", params=HAPPY).text == "1 happy words"
        assert http.post("/models/mood", json=HAPPY).json() == {"happy": 1}
    module.bridge.close()


def test_the_proxy_answers(model: serve.Client, capsys: pytest.CaptureFixture[str]) -> None:
    """With the instance's own server."""
    run("client.py", FILES["client.py"].replace("http://127.0.0.1:8000", model.http_urls[0]))
    assert capsys.readouterr().out.startswith("1 ")


def test_a_new_version_takes_over(model: serve.Client) -> None:
    """By the end it has all the traffic."""
    run("release.py")
    assert serve.get_handle("mood").call({"text": ":)"}) == {"happy": 1}
    serve.set_traffic("mood", {"mood:v1": 1})
    current_client().close()  # the one that `connect` made
