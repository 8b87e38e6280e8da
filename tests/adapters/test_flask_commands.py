"""`flask serve-bridge ...`: the verbs of all command lines, over an app's own settings."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from flask import Blueprint, Flask
from flask.cli import ScriptInfo

import serve_bridge as serve
from serve_bridge.adapters.flask import ServeBridge
from serve_bridge.client.instance_start import start_local
from tests.adapters.support.flask_shop import create_app


@pytest.fixture(scope="module")
def instance(nothing_left: None) -> Iterator[serve.Client]:
    """An instance to which nothing is deployed yet."""
    client = start_local("flask-commands")
    yield client
    client.shutdown()


@pytest.fixture
def app(instance: serve.Client, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """A project's app for the instance."""
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_ADDRESS", instance.address)
    return create_app()


@pytest.fixture
def deployed(app: Flask) -> Flask:
    """The app, its backends deployed."""
    run(app, "deploy")
    return app


def run(app: Flask, *words: str) -> Result:
    """Run one command."""
    return app.test_cli_runner().invoke(args=["serve-bridge", *words])


def found(app: Flask, *words: str) -> Any:
    """Run one command, and return what it says to programs."""
    result = run(app, *words, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_deploy_brings_the_instance_to_what_is_declared(deployed: Flask) -> None:
    """By the extension's backends; the second time there is nothing to do."""
    assert found(deployed, "deploy")["changes"] == []
    assert set(found(deployed, "status")["backends"]) >= {"price", "prices", "aprices"}


def test_the_owner_is_the_import_name_of_the_app(deployed: Flask, instance: serve.Client) -> None:
    """Unless another is named, which then does not own what is there."""
    assert instance.status()["backends"]["price"]["owner"] == deployed.import_name
    result = run(deployed, "deploy", "--project", "blog")
    assert (result.exit_code, "project 'blog' cannot deploy" in result.output) == (1, True)


def test_prune_without_a_terminal_needs_yes(deployed: Flask, instance: serve.Client) -> None:
    """It lists what it would delete."""
    instance.deploy(serve.backend("old")(lambda request: None), project=deployed.import_name)
    result = run(deployed, "deploy", "--prune")
    assert (result.exit_code, "--yes" in result.output, "delete backend old" in result.output) == (1, True, True)
    assert run(deployed, "deploy", "--prune", "--yes").exit_code == 0
    assert "old" not in instance.list_backends()


def test_deploy_takes_the_modules_that_are_named(app: Flask) -> None:
    """Instead of the app's own, and says what it would do."""
    result = run(app, "deploy", "--dry-run", "tests.adapters.test_wsgi:here")
    assert "create backend" in result.output
    assert "none was made" in result.output


def test_deploy_without_backends_says_where_they_are_named(instance: serve.Client) -> None:
    """In the setting, or on the command line."""
    app = Flask(__name__)
    app.config["SERVE_BRIDGE_ADDRESS"] = instance.address
    ServeBridge(app)
    result = run(app, "deploy")
    assert (result.exit_code, "SERVE_BRIDGE_BACKENDS" in result.output) == (2, True)


def test_traffic_is_shown_and_set(deployed: Flask) -> None:
    """Per endpoint."""
    assert found(deployed, "traffic")["price"]["traffic"] == {"price": 1.0}
    split = found(deployed, "traffic", "price", "price=0.5", "prices=0.5")
    assert split["price"]["traffic"] == {"price": 0.5, "prices": 0.5}
    assert found(deployed, "traffic", "price", "price=1")["price"]["traffic"] == {"price": 1.0}


def test_a_shadow_is_set(deployed: Flask) -> None:
    """And taken away by 0."""
    assert found(deployed, "shadow", "price", "prices", "0.5")["price"]["shadows"] == {"prices": 0.5}
    assert found(deployed, "shadow", "price", "prices", "0")["price"]["shadows"] == {}


def test_an_endpoint_is_called(deployed: Flask, instance: serve.Client) -> None:
    """With JSON."""
    instance.create_backend("twice", lambda request: request.data * 2)
    instance.create_endpoint("twice", backend="twice")
    assert found(deployed, "call", "twice", "21") == 42


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["call", "nobody"], 1, "no endpoint 'nobody'"),
        (["traffic", "price", "price=x"], 2, "must be a number"),
        (["deploy", "no.such.module"], 1, "no module 'no.such.module'"),
        (["shadow", "price"], 2, "Missing argument"),
    ],
)
def test_an_error_is_one_line(deployed: Flask, words: list[str], code: int, message: str) -> None:
    """And no traceback."""
    result = run(deployed, *words)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def test_what_a_backend_says_reaches_no_terminal_raw(deployed: Flask, instance: serve.Client) -> None:
    """Neither its value nor its error holds a control character."""
    instance.create_backend("curse", lambda request: request.data["a"])
    instance.create_endpoint("curse", backend="curse")
    assert run(deployed, "call", "curse", '{"a": "\\u001b[2J\\u0007"}').output == "\\x1b[2J\\x07\n"
    assert run(deployed, "call", "curse", '"\\u001b[2J"').output.count("\x1b") == 0


def test_an_app_without_an_instance_is_told_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr."""
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_ADDRESS", str(tmp_path / "none.json"))
    app = create_app()
    with pytest.raises(SystemExit) as ended:  # the runner of click 8.1 mixes stdout and stderr
        app.cli.main(["serve-bridge", "status"], obj=ScriptInfo(create_app=lambda: app))
    assert (ended.value.code, "none.json" in capsys.readouterr().err) == (1, True)


def test_backends_inside_another_process_are_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """No instance is started for a command."""
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_RUNTIME", "local")
    result = run(create_app(), "status")
    assert (result.exit_code, "SERVE_BRIDGE_RUNTIME" in result.output) == (1, True)


def test_check_finds_nothing_where_all_is_well(deployed: Flask) -> None:
    """And says so."""
    result = run(deployed, "check")
    assert (result.exit_code, result.output) == (0, "no problems were found\n")


def test_check_finds_endpoints_that_are_not_there(deployed: Flask) -> None:
    """Behind decorated views too."""
    deployed.add_url_rule("/nobody", view_func=ServeBridge().view("nobody"))
    result = run(deployed, "check")
    assert (result.exit_code, "error: view 'serve_bridge_nobody' forwards to an endpoint" in result.output) == (1, True)


def test_check_finds_the_views_of_blueprints(deployed: Flask) -> None:
    """Nested ones too, and views whose arguments were given before."""
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    outer.register_blueprint(ServeBridge().blueprint("inner", __name__, routes={"/<x>": "nobody"}))
    deployed.register_blueprint(outer)
    deployed.add_url_rule("/partial", "partial", partial(ServeBridge().view("noone"), x=1))
    output = run(deployed, "check").output
    assert (
        "error: view 'outer.inner.nobody' forwards to an endpoint that does not exist: no endpoint 'nobody'" in output
    )
    assert "error: view 'partial' forwards to an endpoint that does not exist: no endpoint 'noone'" in output


def test_check_finds_what_is_not_deployed(instance: serve.Client) -> None:
    """And what is slower than gunicorn's patience."""
    app = Flask(__name__)
    app.config["SERVE_BRIDGE_ADDRESS"] = instance.address
    ServeBridge(app, backends=["tests.adapters.test_wsgi:here"])
    app.add_url_rule("/slow", view_func=ServeBridge().view("twice", timeout_s=60))
    texts = [each["text"] for each in found_by_check(app) if each["level"] == "warning"]
    assert any("60 s" in text for text in texts)
    assert any("would create backend here" in text for text in texts)


def found_by_check(app: Flask) -> Any:
    """Run the check, which may end with 1."""
    return json.loads(run(app, "check", "--format", "json").output)


def test_an_app_without_the_extension_is_told_so() -> None:
    """The command is there for every app of the environment."""
    (command,) = entry_points(group="flask.commands", name="serve-bridge")
    app = Flask(__name__)
    app.cli.add_command(command.load())
    result = run(app, "status")
    assert (result.exit_code, "init_app" in result.output) == (2, True)


def test_one_command_runs_the_app_with_its_backends(tmp_path: Path) -> None:
    """In one process, and it ends as one."""
    command = ["-m", "flask", "--app", "tests.adapters.support.flask_shop", "serve-bridge", "dev", "--port", "0"]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if url := re.search(r"http://127\.0\.0\.1:\d+", line):
                assert httpx.get(f"{url[0]}/price/3", trust_env=False, timeout=30).text == "3 USD"
                process.send_signal(signal.SIGINT)
        assert any("Backends inside this process: price, prices, aprices" in line for line in lines), lines
