"""What an installation without an extra says, in interpreters that cannot import the extra's packages."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from serve_bridge.process.extras import EXTRAS, PRIVATELY_USED, require

ROOT = Path(__file__).parents[3]
BLOCKER = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""
START = "import serve_bridge as serve\nserve.start({})"


def last_line(program: str, *blocked: str) -> str:
    """Return the last line that a failing program says, run where some packages cannot be imported."""
    command = [sys.executable, "-c", BLOCKER.format(blocked=blocked) + program]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1, ran.stderr
    return ran.stderr.splitlines()[-1]


def declared() -> dict[str, list[str]]:
    """Return the extras of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(project["optional-dependencies"])


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_has_the_packages_of_the_metadata(extra: str) -> None:
    """What is checked is what is installed."""
    names = [re.split(r"[\[<>=~!]", wanted)[0] for wanted in declared()[extra]]
    assert tuple(names) == EXTRAS[extra]


def test_the_upper_limits_are_those_of_packages_that_are_used_privately() -> None:
    """The adapter for Django uses private parts of Django and asgiref; the proxy checks its packages itself."""
    users = [wanted for extra in ("ray", "proxy", "cli", "django", "flask", "fastapi") for wanted in declared()[extra]]
    limited = {wanted for wanted in users if "<" in wanted or "==" in wanted or "~=" in wanted}
    private = {f"{name}>={lowest},<{untried}" for name, (lowest, untried) in PRIVATELY_USED.items()}
    assert limited == {*private, "Django>=5.2,<7", "asgiref>=3.8,<4"}


def test_users_need_no_test_tools() -> None:
    """`all` is what serving and calling need."""
    [everything] = declared()["all"]
    assert not {"dev", "testing", "bench"} & set(everything.partition("[")[2].rstrip("]").split(","))


def test_a_start_names_all_that_is_missing_at_once() -> None:
    """Ray, and what the proxy would need next."""
    error = last_line(START.format(""), "ray", "uvicorn")
    assert error.endswith("ray is not installed; uvicorn is not installed. pip install 'serve-bridge[ray,proxy]'")


def test_a_start_without_a_proxy_does_not_ask_for_its_server() -> None:
    """Only for Ray."""
    error = last_line(START.format("http_options={'location': None}"), "ray", "uvicorn")
    assert error.endswith("ray is not installed. pip install 'serve-bridge[ray]'")


def test_a_local_proxy_without_its_server_names_the_extra_and_the_way_out() -> None:
    """Both packages at once, and that a proxy need not be."""
    error = last_line(START.format("runtime='local'"), "uvicorn", "websockets")
    assert error.startswith("ImportError: the HTTP proxy cannot run: uvicorn is not installed; websockets is not")
    assert "pip install 'serve-bridge[proxy]'" in error
    assert "{'location': None}" in error


@pytest.mark.parametrize(
    ("words", "extras"), [(["status"], "cli"), ([], "cli"), (["start"], "cli,ray,proxy"), (["deploy", "start"], "cli")]
)
@pytest.mark.parametrize(
    "entry",
    ["runpy.run_module('serve_bridge', run_name='__main__')", "from serve_bridge.__main__ import main; main()"],
    ids=["module", "script"],
)
def test_the_command_line_without_click_is_one_line(entry: str, words: list[str], extras: str) -> None:
    """As a module and as a script; `start` names what it needs next."""
    program = BLOCKER.format(blocked=("click", "ray", "uvicorn")) + f"sys.argv[1:] = {words!r}\n{entry}"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)
    assert ran.stderr.endswith(f"pip install 'serve-bridge[{extras}]'\n")


def test_the_script_is_the_module() -> None:
    """So both say what is missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"serve-bridge": "serve_bridge.__main__:main"}


@pytest.mark.parametrize("untried", ["0.55.0", "0.55rc1", "1.0", "0.53.9"])
def test_a_version_that_was_not_tried_is_named(untried: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the limits and the installation, before anything of it is imported."""
    metadata = tmp_path / f"uvicorn-{untried}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: uvicorn\nVersion: {untried}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ImportError, match=re.escape(f"uvicorn {untried} is installed")) as raised:
        require("the HTTP proxy", ["proxy"])
    assert "from 0.54 and before 0.55" in str(raised.value)
    assert "pip install 'serve-bridge[proxy]'" in str(raised.value)


def test_a_folder_that_is_called_like_a_package_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python would take it for a namespace package."""
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EXTRAS, "odd", ("only_a_folder",))
    with pytest.raises(ImportError, match="only_a_folder is not installed"):
        require("it", ["odd"])


REPLICA = """
import asyncio

import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

import serve_bridge as serve
from serve_bridge.adapters.starlette.extension import ServeBridge

async def hello(request):
    return PlainTextResponse("hello " + (await request.form())["name"])

async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())

def application():
    return Starlette(routes=[Route("/hello", hello, methods=["POST"]), WebSocketRoute("/echo", echo)])

client = serve.start(runtime="local", http_options={"location": None})
client.create_backend("site", serve.asgi_app(application()))
client.create_endpoint("site", backend="site")
bridge = ServeBridge(client.address)
with TestClient(Starlette(routes=[Mount("/site", bridge.forward("site"))])) as http:
    assert http.post("/site/hello", data={"name": "you"}).text == "hello you"
    with http.websocket_connect("/site/echo") as websocket:
        websocket.send_text("a word")
        assert websocket.receive_text() == "a word"
client.shutdown()
sys.exit(1 if {"uvicorn", "websockets", "httptools"} & set(sys.modules) else "served")
"""


def test_a_replica_serves_an_application_without_the_server_of_the_proxy() -> None:
    """HTTP with a form, and a WebSocket, where neither uvicorn nor websockets nor httptools can be imported."""
    assert last_line(REPLICA, "uvicorn", "websockets", "httptools") == "served"
