"""The three command lines end alike after the same error: one line, the same text, the same exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from django.core.management import CommandError, call_command
from flask import Flask

import serve_bridge as serve
from serve_bridge.adapters.flask import ServeBridge
from serve_bridge.cli import main as cli

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def runtime() -> str:
    """The command lines are the same on both."""
    return "local"


@pytest.fixture(scope="module")
def mood(client: serve.Client) -> serve.Client:
    """The shared instance, with an endpoint."""
    client.create_backend("mood", lambda request: request.data)
    client.create_endpoint("mood", backend="mood")
    return client


def of_serve_bridge(client: serve.Client, *words: str) -> tuple[int, str]:
    """Run `serve-bridge`."""
    ran = CliRunner().invoke(cli.main, [words[0], "--address", client.address, *words[1:]])
    return ran.exit_code, ran.output.removeprefix("Error: ").rstrip("\n")


def of_flask(client: serve.Client, *words: str) -> tuple[int, str]:
    """Run `flask serve-bridge`."""
    app = Flask("shop")
    app.config["SERVE_BRIDGE_ADDRESS"] = client.address
    ServeBridge(app)
    ran = app.test_cli_runner().invoke(args=["serve-bridge", *words])
    return ran.exit_code, ran.output.removeprefix("Error: ").rstrip("\n")


def of_django(client: serve.Client, *words: str) -> tuple[int, str]:
    """Run `manage.py serve_bridge`."""
    try:
        call_command("serve_bridge", *words, "--address", client.address)
    except CommandError as error:
        return error.returncode, str(error)
    return 0, ""


COMMAND_LINES: dict[str, Callable[..., tuple[int, str]]] = {
    "serve-bridge": of_serve_bridge,
    "flask": of_flask,
    "django": of_django,
}

CASES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such endpoint": (("call", "mod"), 1, "no endpoint 'mod'; did you mean 'mood'? Known: mood"),
    "no such endpoint to split": (("traffic", "mod"), 1, "no endpoint 'mod'; did you mean 'mood'? Known: mood"),
    "no such backend": (("traffic", "mood", "mod=1"), 1, "no backend 'mod'; did you mean 'mood'? Known: mood"),
    "weight without endpoint": (("traffic", "mood=1"), 2, "which endpoint? traffic ENDPOINT mood=1"),
    "weight that is not a number": (("traffic", "mood", "mood=x"), 2, "the weight of 'mood' must be a number, got 'x'"),
    "weight without a name": (("traffic", "mood", "0.5"), 2, "a weight reads 'backend=0.9', got '0.5'"),
    "share": (("shadow", "mood", "mood", "2"), 2, "proportion must be a number from 0 to 1, got '2'"),
    "data": (("call", "mood", "{a:1}"), 2, "the data must be JSON"),
    "time": (("call", "mood", "--timeout", "0"), 2, "timeout_s must be a number of seconds above 0"),
}

MODULES: dict[str, tuple[str, str, str]] = {
    "of the library": ("posixpath:join", "", "is not declared"),
    "path of a file": ("./x.py", "", "use x"),
    "path of a package": ("shop/backends.py", "", "use shop.backends"),
    "file name": ("mood.py", "", "use mood"),
    "missing": ("no_such_module", "", "no module 'no_such_module' can be imported here"),
    "odd": ("a b", "", "'a b' is not the name of a module, such as 'shop.backends'"),
    "syntax": ("badsyn", "def", "module 'badsyn' cannot be imported: badsyn.py, line 1: invalid syntax"),
    "import": (
        "badimp",
        "import os\nimport nonexistent_lib",
        "module 'badimp' cannot be imported: badimp.py, line 2: No module named 'nonexistent_lib'",
    ),
    "exception": ("baderr", "\n1/0", "module 'baderr' cannot be imported: baderr.py, line 2: ZeroDivisionError: "),
    "option": (
        "badopt",
        "import serve_bridge as serve\nserve.backend('x', config={})",
        "module 'badopt' cannot be imported: badopt.py, line 2: TypeError: backend() takes no config",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("line", COMMAND_LINES)
def test_the_same_error_ends_each_command_line_alike(mood: serve.Client, line: str, case: str) -> None:
    """A failure is 1, and a command that was written wrongly 2."""
    words, code, text = CASES[case]
    ended, output = COMMAND_LINES[line](mood, *words)
    assert (ended, output.startswith(text), "\n" in output) == (code, True, False), output


@pytest.fixture(params=["serve-bridge", "flask"])
def deploying(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `deploy` in a directory of its own, which has a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    yield lambda client, name: COMMAND_LINES[request.param](client, "deploy", name)
    for name in MODULES:
        sys.modules.pop(MODULES[name][0], None)


@pytest.mark.parametrize("case", MODULES)
def test_a_module_that_cannot_be_deployed_is_one_line(
    mood: serve.Client, deploying: Run, tmp_path: Path, case: str
) -> None:
    """Also one whose code raises."""
    name, source, text = MODULES[case]
    if source:
        (tmp_path / f"{name}.py").write_text(source)
    code, output = deploying(mood, name)
    assert (code, text in output, "\n" in output) == (1, True, False), output
