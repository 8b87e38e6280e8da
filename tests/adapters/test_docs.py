"""README.md and the pages of docs/ are true: what they show is written, run and asked as a reader would do it."""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import httpx
import pytest
from click import Option
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings

import serve_bridge as serve
from serve_bridge.adapters import RouteOptions
from serve_bridge.adapters.bridge.app_bridge import BridgeOptions
from serve_bridge.adapters.django.checks import __doc__ as django_checks
from serve_bridge.adapters.django.settings import Options
from serve_bridge.adapters.flask.settings import PREFIX, Settings
from serve_bridge.cli.main import keys, main
from tests.adapters.support.asgi_transport import asgi_client
from tests.adapters.support.pages import HAPPY, Reader, blocks_of, rows_of
from tests.support.programs import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
FOLLOWED: Mapping[Path, str] = {
    README: "/mood",
    DOCS / "asgi-and-wsgi.md": "/ml/mood",
    DOCS / "backends.md": "",
    DOCS / "django.md": "/mood/",
    DOCS / "flask.md": "/mood",
    DOCS / "index.md": "/mood",
    DOCS / "migrate" / "celery.md": "/mood",
    DOCS / "migrate" / "fastapi-with-the-model-inside.md": "/mood",
    DOCS / "migrate" / "ray-serve-1.md": "",
    DOCS / "migrate" / "ray-serve-2.md": "",
    DOCS / "several-machines.md": "",
    DOCS / "starlette.md": "/mood",
    DOCS / "state.md": "",
    DOCS / "tutorial.md": "/mood",
    DOCS / "web-servers.md": "/mood",
}
"""Pages, each with the path that its apps answer HAPPY at."""
ELSEWHERE = {"write-an-adapter.md", "containers.md"}
"""Pages that have a test of their own."""
OF_FRAMEWORKS = [DOCS / name for name in ("asgi-and-wsgi.md", "django.md", "flask.md", "starlette.md")]
NOT_RUN = {
    "README.md": [
        "the tests have it installed",
        "the first is tests/e2e/test_demo.py, the second runs this test",
        "it needs a Ray cluster; tests/ray has it",
    ],
    "backends.md": ["it needs a Ray cluster; tests/ray has it"],
    "ray-serve-1.md": [
        "it needs Ray 1.3, which Python 3.11 cannot install",
        "it needs a Ray cluster; tests/ray has it",
    ],
    "ray-serve-2.md": ["it needs ray[serve]; the test compares its names and arguments with the source of Ray Serve"],
    "several-machines.md": [
        "it needs the engine's host; tests/nodes has it",
        "it needs the web host; tests/nodes has it",
        "it needs the web host; tests/nodes has it",
        "it needs the engine's host; tests/nodes has it",
    ],
    "tutorial.md": [
        "the tests have it installed",
        "the test asks the server of the block before itself",
        "it needs a Ray cluster; tests/ray has it",
    ],
    **{page.name: ["the tests have it installed"] for page in OF_FRAMEWORKS},
}


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_a_page_can_be_followed(page: Path, nothing_left: None, tmp_path: Path) -> None:
    """Every block is run, and prints what the page says."""
    with Reader(page, tmp_path, FOLLOWED[page]) as reader:
        reader.follow()


def test_every_page_with_code_is_run() -> None:
    """So that none goes untested."""
    pages = [
        page for page in DOCS.rglob("*.md") if any(block.language in ("python", "console") for block in blocks_of(page))
    ]
    assert {page.name for page in pages} == {page.name for page in FOLLOWED if page != README} | ELSEWHERE


def test_what_is_not_run_is_known() -> None:
    """With the reason, on the page itself."""
    found = {page.name: [block.reason for block in blocks_of(page) if block.reason] for page in FOLLOWED}
    assert {name: reasons for name, reasons in found.items() if reasons} == NOT_RUN


@pytest.mark.parametrize("page", sorted(NOT_RUN))
def test_code_that_is_not_run_compiles(page: str) -> None:
    """Python for another system is valid Python at least."""
    path = next(each for each in FOLLOWED if each.name == page)
    for block in blocks_of(path):
        if block.reason and block.language == "python":
            compile(block.text, page, "exec")


def test_the_program_for_ray_serve_2_calls_what_ray_serve_has() -> None:
    """Its calls of `serve` have names and arguments of the installed version, which only its extra could run."""
    ray = find_spec("ray")
    if ray is None or ray.origin is None:
        pytest.skip("needs the source of Ray")
    functions = {
        each.name: {argument.arg for argument in each.args.args + each.args.kwonlyargs}
        for each in ast.parse((Path(ray.origin).parent / "serve" / "api.py").read_text()).body
        if isinstance(each, ast.FunctionDef)
    }
    program = next(block.text for block in blocks_of(DOCS / "migrate" / "ray-serve-2.md") if block.reason)
    calls = [
        (each.func.attr, [argument.arg for argument in each.keywords])
        for each in ast.walk(ast.parse(program))
        if isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and ast.unparse(each.func.value) == "serve"
    ]
    assert {name for name, _ in calls} == {"deployment", "run"}
    assert [call for call in calls if not functions[call[0]].issuperset(call[1])] == []


def test_every_link_leads_somewhere() -> None:
    """To a file of the project."""
    pages = [README, *DOCS.rglob("*.md"), *ROOT.glob("examples/*/README.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert links
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


# tables


@pytest.mark.parametrize("page", OF_FRAMEWORKS, ids=lambda page: page.stem)
def test_the_options_of_a_route_are_those_that_there_are(page: Path) -> None:
    """And all pages say the same of them."""
    rows = rows_of(page, "option")
    assert list(rows) == list(RouteOptions.__annotations__)
    assert rows == rows_of(OF_FRAMEWORKS[0], "option")


def test_the_settings_of_a_page_are_those_that_there_are() -> None:
    """In each framework's manner."""
    names = {"use_async": "ASYNC"}
    django = [names.get(each.name, each.name.upper()) for each in fields(Options)]
    assert list(rows_of(DOCS / "django.md", "key")) == django
    flask = rows_of(DOCS / "flask.md", "key")
    assert sorted(flask) == sorted(PREFIX + each.name.upper() for each in fields(Settings))
    for page in ("asgi-and-wsgi.md", "starlette.md"):
        assert list(rows_of(DOCS / page, "argument")) == ["address", "routes", *BridgeOptions.__annotations__]


def test_the_options_of_backends_are_those_that_there_are() -> None:
    """What a declaration takes, and how a backend runs."""
    options = [each.name for each in fields(serve.BackendConfig)]
    declared = [name for name in signature(serve.backend).parameters if name not in options]
    assert list(rows_of(DOCS / "backends.md", "argument")) == declared
    assert sorted(rows_of(DOCS / "backends.md", "option")) == sorted(options)


def test_the_options_of_the_proxy_are_those_that_there_are() -> None:
    """In the order of the class."""
    assert list(rows_of(DOCS / "backends.md", "http option")) == [each.name for each in fields(serve.HTTPOptions)]


def test_the_commands_are_those_that_there_are() -> None:
    """With their options, except those that the text below the table describes."""
    shared = {"--name", "--address", "--format"}
    words = re.compile(r"(?:keys )?[a-z]+")
    listed = {
        name[0]: set(re.findall(r"--[a-z-]+", row)) - shared
        for row in rows_of(DOCS / "backends.md", "`serve-bridge`")
        if (name := words.match(row)) is not None
    }
    commands = {**main.commands, **{f"keys {name}": command for name, command in keys.commands.items()}}
    del commands["keys"]
    assert listed == {
        name: {flag for option in command.params if isinstance(option, Option) for flag in option.opts} - shared
        for name, command in commands.items()
    }


def test_the_system_checks_are_those_that_there_are() -> None:
    """Each of the module's list."""
    listed = re.findall(r"\b[EW]\d{3}\b", django_checks or "")
    assert list(rows_of(DOCS / "django.md", "id")) == [f"serve_bridge.{number}" for number in sorted(listed)]


# what the README's first screen shows


@pytest.fixture(scope="module")
def mood(nothing_left: None) -> Iterator[serve.Client]:
    """An instance with the README's backend."""
    client = serve.start(runtime="local", http_options={"location": "NoServer"})
    serve.deploy(shown("backends.py").Mood)
    yield client
    client.shutdown()


def shown(name: str) -> types.ModuleType:
    """Return a file of the README as a module."""
    code = next(block.text for block in blocks_of(README) if block.text.startswith(f"# {name}\n"))
    module = types.ModuleType(name.removesuffix(".py"))
    exec(compile(code, f"README.md: {name}", "exec"), module.__dict__)
    return module


def test_the_django_project_answers(mood: serve.Client) -> None:
    """With a CSRF token, as it is for every view."""
    transport = httpx.WSGITransport(WSGIHandler())
    with (
        override_settings(ROOT_URLCONF=shown("urls.py"), SERVE_BRIDGE={}, ALLOWED_HOSTS=["*"]),
        httpx.Client(transport=transport, base_url="http://testserver") as http,
    ):
        token = {"cookie": f"csrftoken={'x' * 32}", "x-csrftoken": "x" * 32}
        assert http.post("/mood/", json=HAPPY, headers=token).json() == {"happy": 1}
        assert http.post("/mood/", json=HAPPY).status_code == 403


def test_the_flask_app_answers(mood: serve.Client) -> None:
    """By its forwarded route."""
    app = shown("flask_app.py").app
    assert app.test_client().post("/mood", json=HAPPY).json == {"happy": 1}
    app.extensions["serve_bridge"].close()


@pytest.mark.parametrize("name", ["starlette_app.py", "fastapi_app.py"])
def test_the_asgi_apps_answer(mood: serve.Client, name: str) -> None:
    """By their forwarded route."""
    module = shown(name)
    with asgi_client(module.app) as http:
        assert http.post("/mood", json=HAPPY).json() == {"happy": 1}
    module.bridge.close()


def test_a_view_calls_the_endpoint(mood: serve.Client) -> None:
    """Like a function."""
    assert serve.get_handle("mood").call(HAPPY) == {"happy": 1}
