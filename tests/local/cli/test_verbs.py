"""The verbs that every command line has: what they report, and which words they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import serve_bridge as serve
from serve_bridge.cli import verbs as commands
from serve_bridge.cli.main import main
from serve_bridge.cli.report import _table, status_text
from serve_bridge.client.instance_start import start_local
from tests.support.programs import ROOT
from tests.support.projects import project_in

RAW = "red \x1b[31m bell \x07 back\rC1 \x9b2J\u2028 end"
SAFE = "red \\x1b[31m bell \\x07 back\\rC1 \\x9b2J\\u2028 end"


class Model:
    """A backend with methods."""

    def __call__(self, request: Any) -> Any:
        """Return the data."""
        return request.data

    def items(self, count: int) -> Iterator[int]:
        """Count."""
        yield from range(count)

    def fail(self) -> None:
        """Raise."""
        raise LookupError("no model")

    def curse(self) -> None:
        """Raise an error whose text is for a terminal."""
        raise LookupError(RAW)

    def odd(self) -> Any:
        """Return what JSON has not."""
        return object()


@pytest.fixture(scope="module")
def runtime() -> str:
    """The verbs are the same on both."""
    return "local"


@pytest.fixture(scope="module")
def model(client: serve.Client) -> serve.Client:
    """The shared instance, with an endpoint."""
    client.create_backend("model", Model)
    client.create_backend("model:v2", Model)
    client.create_endpoint("predict", backend="model", route="/predict", methods=["POST"])
    return client


@pytest.mark.parametrize(
    ("data", "text"),
    [("5", "5"), ('"text"', "text"), ("null", "null"), (None, "null"), ('{"a": "ä"}', '{\n  "a": "ä"\n}')],
)
def test_call_shows_what_is_returned(model: serve.Client, data: str | None, text: str) -> None:
    """Text as it is, all else as JSON."""
    assert commands.call(model, "predict", data).text == text


def test_call_lists_what_a_generator_yields(model: serve.Client) -> None:
    """By the method that was asked for."""
    assert commands.call(model, "predict", "3", method="items").data == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"data": "{"}, serve.ConfigError, "must be JSON"),
        ({"method": "fail"}, serve.BackendError, "LookupError: no model"),
        ({"method": "odd"}, serve.SerializationError, "object"),
        ({"method": "_private"}, serve.MethodNotExposed, "_private"),
        ({"endpoint": "nobody"}, serve.EndpointNotFound, "nobody"),
    ],
)
def test_a_call_that_fails_says_why(model: serve.Client, arguments: Any, error: type[Exception], text: str) -> None:
    """As an error of the engine, whatever the backend raised."""
    with pytest.raises(error, match=text):
        commands.call(model, **{"endpoint": "predict", **arguments})


@pytest.mark.parametrize("depth", [100, 900, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_data_that_is_nested_too_deep_is_one_line(model: serve.Client, depth: int, opened: str, closed: str) -> None:
    """Whatever gives up first, the reader, the pickle or the writer, says so."""
    answer = CliRunner().invoke(
        main, ["call", "--address", model.address, "predict", opened * depth + "1" + closed * depth]
    )
    assert (answer.exit_code == 0) is (depth == 100)
    if depth > 100:
        assert answer.output.startswith("Error: ")
        assert answer.output.count("\n") == 1


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("data", [RAW, {"a": RAW}, [{RAW: 1}]], ids=["text", "value", "key"])
def test_a_call_shows_no_control_character(model: serve.Client, data: Any, form: str) -> None:
    """A backend cannot write to the terminal of the caller; JSON stays JSON."""
    answer = CliRunner().invoke(
        main, ["call", "--address", model.address, "--format", form, "predict", json.dumps(data)]
    )
    assert answer.exit_code == 0
    assert [character for character in answer.output if ord(character) < 32 and character != "\n"] == []
    assert not {"\x7f", "\x9b", "\u2028"} & set(answer.output)
    if form == "json" or not isinstance(data, str):
        assert json.loads(answer.output) == data
    else:
        assert answer.output == SAFE + "\n"


def test_an_error_of_a_backend_shows_no_control_character(model: serve.Client) -> None:
    """Its text is on one line, with escapes."""
    answer = CliRunner().invoke(main, ["call", "--address", model.address, "predict", "--method", "curse"])
    assert (answer.exit_code, answer.output) == (1, f"Error: the backend raised LookupError: {SAFE}\n")


def test_a_cell_of_a_table_is_one_line() -> None:
    """The failure of a backend is its own text, with line feeds as escapes."""
    assert _table(("backend",), [(f"{RAW}\nforged",)]) == f"backend\n{SAFE}\\nforged"


def test_status_is_aligned(model: serve.Client) -> None:
    """Each column as wide as its widest cell."""
    report = commands.status(model)
    assert set(report.data["backends"]) == {"model", "model:v2"}
    assert "backend   replicas      project  version  deployed  failure" in report.text.splitlines()
    assert "model:v2  1 ready of 1  by hand" in report.text.splitlines()


UPDATES = {
    "runs": "update of backend model to version 2.1 runs: 2 of 8 replicas have it, and 5 have the old code",
    "is undone": (
        "update of backend model to version 2.1 is undone: 2 of 8 replicas have it, and 5 have the old code. no GPU"
    ),
    "undone": "update of backend model to version 2.1 was undone, and all replicas have the old code. no GPU",
}


@pytest.mark.parametrize("state", UPDATES)
def test_status_shows_the_progress_of_an_update(model: serve.Client, state: str) -> None:
    """Before the tables, in a line of its own."""
    found: Any = model.status()
    failure = None if state == "runs" else "no GPU"
    update = {"state": state, "version": "2.1", "wanted": 8, "new": 2, "old": 5, "failure": failure}
    found["backends"]["model"]["update"] = update
    assert UPDATES[state] in status_text(found).splitlines()


def test_traffic_is_set_and_shown(model: serve.Client) -> None:
    """Of one endpoint or of all."""
    report = commands.traffic(model, "predict", ["model=0.9", "model:v2=0.1"])
    assert report.data == {"predict": {"traffic": {"model": 0.9, "model:v2": 0.1}, "shadows": {}}}
    assert commands.traffic(model).text == report.text
    assert commands.shadow(model, "predict", "model:v2", "0.5").data["predict"]["shadows"] == {"model:v2": 0.5}
    assert commands.shadow(model, "predict", "model:v2", 0).data["predict"]["shadows"] == {}


@pytest.mark.parametrize(
    ("endpoint", "weights", "error"),
    [
        (None, ["model=1"], serve.ConfigError),
        ("predict", ["model"], serve.ConfigError),
        ("predict", ["=1"], serve.ConfigError),
        ("predict", ["model=x"], serve.ConfigError),
        ("predict", ["model=nan"], serve.ConfigError),
        ("predict", ["model=0.5"], serve.ConfigError),
        ("predict", ["model=0.5", "model=0.5"], serve.ConfigError),
        ("predict", ["other=1"], serve.BackendNotFound),
        ("nobody", [], serve.EndpointNotFound),
    ],
)
def test_weights_that_mean_nothing_are_refused(
    model: serve.Client, endpoint: str | None, weights: list[str], error: type[Exception]
) -> None:
    """The split stays."""
    before = commands.traffic(model).data
    with pytest.raises(error):
        commands.traffic(model, endpoint, weights)
    assert commands.traffic(model).data == before


@pytest.mark.parametrize("proportion", ["x", "2", "-1", "nan"])
def test_a_proportion_that_is_none_is_refused(model: serve.Client, proportion: str) -> None:
    """It is a number from 0 to 1."""
    with pytest.raises(serve.ConfigError, match="proportion"):
        commands.shadow(model, "predict", "model:v2", proportion)


def test_deploy_reports_the_deployment(model: serve.Client) -> None:
    """For people and for programs."""
    declared = serve.backend("declared")(type("Declared", (Model,), {}))
    report = commands.deploy(model, [declared], dry_run=True)
    assert report.data["changes"][0] == {"kind": "create backend", "name": "declared", "reason": "new"}
    assert report.formatted("table").startswith(f"instance {model.name}: 2 changes")
    assert report.formatted("json").startswith("{")


def test_deploy_needs_something(model: serve.Client) -> None:
    """Nothing declared at all, with --prune, would delete everything."""
    with pytest.raises(serve.ConfigError, match="at least one module"):
        commands.deploy(model, [], prune=True)


# Deployments that delete


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[tuple[serve.Client, str]]:
    """An instance to which a project has deployed two backends, and the address of the module that is left."""
    with project_in(tmp_path) as project:
        source = "import serve_bridge as serve\n@serve.backend('{0}')\ndef {0}(request): ..."
        project.write("shop.kept", source.format("kept"))
        project.write("shop.old", source.format("old"))
        client = start_local("prune")
        client.deploy("shop.kept", "shop.old")
        yield client, str(tmp_path)
        client.shutdown()


def pruned(client: serve.Client, *words: str) -> Any:
    """Run `deploy --prune` of what is left."""
    return CliRunner().invoke(main, ["deploy", "--address", client.address, "--prune", *words, "shop.kept"])


def test_prune_without_a_terminal_needs_yes(deployed: tuple[serve.Client, str]) -> None:
    """The error lists what would be deleted; a dry run asks nothing."""
    client, _ = deployed
    answer = pruned(client)
    assert (answer.exit_code, answer.output.count("\n")) == (1, 1)
    assert "--yes" in answer.output
    assert "delete endpoint old, delete backend old" in answer.output
    assert pruned(client, "--dry-run").exit_code == 0
    assert set(client.list_backends()) == {"kept", "old"}
    assert pruned(client, "--yes").exit_code == 0
    assert set(client.list_backends()) == set(client.list_endpoints()) == {"kept"}
    assert pruned(client).exit_code == 0  # nothing is left to delete


@pytest.mark.parametrize(("typed", "left"), [("y\n", {"kept"}), ("n\n", {"kept", "old"})])
def test_prune_asks_at_a_terminal(deployed: tuple[serve.Client, str], typed: str, left: set[str]) -> None:
    """After it has listed what it deletes, and what traffic that has."""
    client, directory = deployed
    outer, inner = os.openpty()
    os.write(outer, typed.encode())
    command = [sys.executable, "-m", "serve_bridge", "deploy", "--address", client.address, "--prune", "shop.kept"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{directory}"}
    ran = subprocess.run(command, stdin=inner, capture_output=True, text=True, env=environment, timeout=60)
    os.close(outer)
    os.close(inner)
    assert ran.returncode == int("old" in left), ran.stderr
    assert "  delete endpoint  old  no longer declared; its traffic is 1 old\n" in ran.stderr
    assert set(client.list_backends()) == left


def test_the_owner_can_be_named(deployed: tuple[serve.Client, str]) -> None:
    """Another owner's names are an error of one line."""
    client, _ = deployed
    words = ["deploy", "--address", client.address, "--project", "blog", "shop.kept"]
    refused = CliRunner().invoke(main, words)
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert "project 'blog' cannot deploy" in refused.output
    assert "belongs to project 'shop'" in refused.output
    assert CliRunner().invoke(main, [*words, "--take-over"]).exit_code == 0
    assert client.status()["backends"]["kept"]["owner"] == "blog"


def test_declared_traffic_is_applied_by_an_option(deployed: tuple[serve.Client, str], tmp_path: Path) -> None:
    """Without it the split stays, and a note says so."""
    client, _ = deployed
    source = "import serve_bridge as serve\nfrom shop import kept\nserve.endpoint('kept', traffic={'kept': 1})"
    (tmp_path / "shop" / "endpoints.py").write_text(source)
    client.set_traffic("kept", {"old": 1})
    words = ["deploy", "--address", client.address, "shop.kept", "shop.endpoints"]
    assert "note: endpoint kept keeps its traffic, 1 old" in CliRunner().invoke(main, words).output
    assert "traffic 1 old -> 1 kept" in CliRunner().invoke(main, [*words, "--traffic"]).output
    assert client.list_endpoints()["kept"]["traffic"] == {"kept": 1.0}


@pytest.mark.parametrize("source", ["import serve_bridge as s\n@s.backend(num_replica=2)\ndef f(r): ...", "# nothing"])
def test_a_wrong_module_is_one_line(deployed: tuple[serve.Client, str], tmp_path: Path, source: str) -> None:
    """A misspelt option, or no declaration at all."""
    client, _ = deployed
    (tmp_path / "shop" / "wrong.py").write_text(source)
    answer = CliRunner().invoke(main, ["deploy", "--address", client.address, "--prune", "shop.wrong"])
    assert (answer.exit_code, answer.output.count("\n"), answer.output[:7]) == (1, 1, "Error: ")
    assert "num_replicas" in answer.output or "declares nothing" in answer.output


def test_status_shows_the_methods_that_an_endpoint_takes(model: serve.Client) -> None:
    """One without a route takes every method: only a route chooses."""
    model.create_endpoint("inner", backend="model", methods=["POST"])
    found = commands.status(model)
    model.delete_endpoint("inner")
    methods = {name: endpoint["methods"] for name, endpoint in found.data["endpoints"].items()}
    line = next(line for line in found.text.splitlines() if line.startswith("inner"))
    assert (methods["predict"], methods["inner"], "every" in line) == (["POST"], ["*"], True)
