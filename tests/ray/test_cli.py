"""The command line, in processes of its own, on a Ray cluster that outlives each of them."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import serve_bridge as serve
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

Command = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster(runtime_directory: Path, nothing_left: None) -> Iterator[str]:
    """The address of a cluster that `ray start` made."""
    port = free_port()
    options = [
        f"--port={port}",
        # Where Ray's own client can be served it is, on a port that others may have.
        *([f"--ray-client-server-port={free_port()}"] if find_spec("grpc") else []),
        f"--temp-dir={runtime_directory / 'cluster'}",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--disable-usage-stats",
        "--num-cpus=2",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *options]
        log = (runtime_directory / "cluster.log").open("w+")
        with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            wait_until(lambda: "Ray runtime started" in Path(log.name).read_text(), timeout_s=60)
            yield f"127.0.0.1:{port}"
            process.terminate()


@pytest.fixture(scope="module")
def command(cluster: str) -> Command:
    """Runs a command and returns what it said."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "serve_bridge", *arguments], capture_output=True, text=True, timeout=60
        )

    return run


@pytest.fixture(scope="module")
def started(command: Command, cluster: str) -> Iterator[str]:
    """The name of an instance that `start` made, with one endpoint."""
    name = "from-the-command-line"
    ran = command("start", "--name", name, "--port", "0", "--address", cluster)
    assert ran.returncode == 0, ran.stderr
    client = serve.connect(name=name)
    client.create_backend("hello", lambda request: "hello")
    client.create_endpoint("hello", backend="hello", route="/hello")
    client.close()
    yield name
    assert command("shutdown", "--name", name).returncode == 0


def test_a_started_instance_can_be_joined(command: Command, started: str) -> None:
    """By its name, from a process that knows no Ray, after the command has ended."""
    client = serve.connect(name=started)
    assert client.get_handle("hello").call() == "hello"
    client.close()


def test_status_shows_everything_as_json(command: Command, started: str) -> None:
    """For programs."""
    status = json.loads(command("status", "--name", started, "--format", "json").stdout)
    assert status["name"] == started
    assert list(status["backends"]["hello"]["replicas"].values()) == ["ready"]
    assert status["endpoints"]["hello"]["traffic"] == {"hello": 1.0}


def test_status_shows_a_table(command: Command, started: str) -> None:
    """For people."""
    output = command("status", "--name", started).stdout
    assert [text in output for text in (started, "http://127.0.0.1:", "backend", "endpoint")] == [True] * 4


def test_shutdown_ends_the_instance(command: Command, cluster: str) -> None:
    """And a second one finds none."""
    options = ["--location", "NoServer", "--address", cluster]
    assert command("start", "--name", "short-lived", *options).returncode == 0
    assert command("shutdown", "--name", "short-lived").returncode == 0
    again = command("shutdown", "--name", "short-lived")
    assert again.returncode == 1
    assert again.stderr.startswith("Error: no running instance")


def test_a_name_that_runs_is_refused(command: Command, started: str, cluster: str) -> None:
    """In one line."""
    again = command("start", "--name", started, "--port", "0", "--address", cluster)
    assert again.returncode == 1
    assert "runs on this cluster already" in again.stderr
    assert len(again.stderr.splitlines()) == 1


def test_no_cluster_is_an_error_that_says_what_to_do(command: Command) -> None:
    """An instance in a Ray of its own would end with the command."""
    ran = command("start", "--address", f"127.0.0.1:{free_port()}")
    assert ran.returncode == 1
    assert "ray start --head" in ran.stderr


@pytest.mark.parametrize("wrong", [["start", "--port", "99999"], ["start", "--location", "Moon"], ["stop"]])
def test_a_wrong_command_is_exit_code_2(command: Command, wrong: list[str]) -> None:
    """With a hint at the usage."""
    ran = command(*wrong)
    assert ran.returncode == 2
    assert "Usage:" in ran.stderr


def test_the_console_script_is_the_same() -> None:
    """As it is installed."""
    script = Path(sys.executable).with_name("serve-bridge")
    ran = subprocess.run([script, "--version"], capture_output=True, text=True, env=dict(os.environ))
    assert serve.__version__ in ran.stdout
