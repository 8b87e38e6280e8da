"""The command line, in processes of its own, on a Ray cluster that outlives each of them."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

import serve_bridge as serve
from tests.support.listening import free_port
from tests.support.programs import start_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]


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

    def run(
        *arguments: str, directory: Path | None = None, given: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        script = str(Path(sys.executable).with_name("serve-bridge"))
        return subprocess.run(
            [script, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=directory,
            input=given,
            env=environment,
        )

    return run


@pytest.fixture(scope="module")
def started(command: Command, cluster: str) -> Iterator[str]:
    """The name of an instance that `start` made, with one endpoint."""
    name = "from-the-command-line"
    hosts = ["--allowed-host", "127.0.0.1", "--allowed-host", "*.example"]
    ran = command("start", "--name", name, "--port", "0", "--ray-address", cluster, *hosts)
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


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("shop.example", 200), ("localhost", 421)])
def test_the_allowed_hosts_are_those_of_the_command(started: str, host: str, status: int) -> None:
    """The option can be repeated."""
    client = serve.connect(name=started)
    answer = httpx.get(client.http_urls[0] + "/hello", headers={"Host": host}, trust_env=False, timeout=30)
    client.close()
    assert answer.status_code == status


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


BACKENDS = """
import serve_bridge as serve

@serve.backend("adder", route="/add", methods=["POST"])
class Adder:
    def __call__(self, request):
        return (request.data or 0) + {amount}

    def fail(self):
        raise LookupError("no number")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a module that declares a backend."""
    (tmp_path / "calculator.py").write_text(BACKENDS.format(amount=1))
    return tmp_path


def test_deploy_traffic_shadow_and_call(command: Command, started: str, project: Path) -> None:
    """A release, from the project's directory."""

    def run(verb: str, *arguments: str, given: str = "") -> str:
        ran = command(verb, "--name", started, *arguments, directory=project, given=given)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert "none was made" in run("deploy", "--dry-run", "calculator")
    assert "create backend" in run("deploy", "calculator")
    assert run("call", "adder", "4") == "5\n"
    assert json.loads(run("call", "--format", "json", "adder", "-", given="5")) == 6
    (project / "calculator.py").write_text(BACKENDS.format(amount=100))
    assert [each["kind"] for each in json.loads(run("deploy", "--format", "json", "calculator"))["changes"]] == [
        "update backend"
    ]
    assert "nothing to change" in run("deploy", "calculator")
    assert run("call", "adder") == "100\n"
    assert "0.5 hello" in run("traffic", "adder", "adder=0.5", "hello=0.5")
    assert "0.25 hello" in run("shadow", "adder", "hello", "0.25")
    assert json.loads(run("traffic", "--format", "json"))["adder"] == {
        "traffic": {"adder": 0.5, "hello": 0.5},
        "shadows": {"hello": 0.25},
    }


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["deploy", "no_such_module"], 1, "no module 'no_such_module'"),
        (["traffic", "hello", "hello"], 2, "a weight reads"),
        (["traffic", "hello", "hello=much"], 2, "must be a number"),
        (["traffic", "helo"], 1, "no endpoint 'helo'; did you mean 'hello'?"),
        (["shadow", "hello", "hello", "2"], 2, "from 0 to 1"),
        (["call", "hello", "{"], 2, "must be JSON"),
        (["call", "nobody"], 1, "no endpoint 'nobody'"),
        (["call", "hello", "--method", "secret"], 1, "exposes no method 'secret'"),
    ],
)
def test_wrong_words_are_one_line(command: Command, started: str, arguments: list[str], code: int, text: str) -> None:
    """That names them."""
    ran = command(*arguments, "--name", started)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (code, 1)
    assert text in ran.stderr


def test_two_starts_at_the_same_time_make_one_instance(command: Command, cluster: str, tmp_path: Path) -> None:
    """Both print the same address, and the keys of the instance are kept."""
    options = ["--name", "twice", "--port", "0", "--ray-address", cluster, "--state", str(tmp_path)]
    with ThreadPoolExecutor(2) as pool:
        ran = list(pool.map(lambda _: command("start", *options), range(2)))
    assert [each.returncode for each in ran] == [0, 0], [each.stderr for each in ran]
    assert ran[0].stdout == ran[1].stdout
    assert (tmp_path / "twice" / "secret").exists()
    assert command("keys", "rotate", "--name", "twice", "--state", str(tmp_path)).returncode == 0
    assert command("shutdown", "--name", "twice", "--forget").returncode == 0


def test_a_failed_start_whose_command_was_killed_does_not_keep_the_name(command: Command, cluster: str) -> None:
    """The next start ends the rest of the failed one."""
    killed = """
        import os
        import sys
        import ray
        import serve_bridge as serve

        ray.init(address=sys.argv[1], log_to_driver=False)
        ray.kill = lambda *args, **kwargs: os._exit(9)  # just before it ends the controller that could not start
        serve.start(name="rest", detached=True, state=False, http_options={"port": int(sys.argv[2])})
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with start_program(killed, cluster, str(taken.getsockname()[1])) as starter:
            assert starter.wait(60) == 9
        ran = command("start", "--name", "rest", "--port", "0", "--ray-address", cluster, "--no-state")
    assert ran.returncode == 0, ran.stderr
    assert command("shutdown", "--name", "rest", "--forget").returncode == 0


def test_shutdown_ends_the_instance(command: Command, cluster: str) -> None:
    """And a second one finds none."""
    options = ["--location", "NoServer", "--ray-address", cluster]
    assert command("start", "--name", "short-lived", *options).returncode == 0
    assert command("shutdown", "--name", "short-lived").returncode == 0
    again = command("shutdown", "--name", "short-lived")
    assert again.returncode == 1
    assert again.stderr.startswith("Error: no running instance")


def test_the_printed_address_is_that_of_the_next_start_too(command: Command, cluster: str) -> None:
    """Web workers that were given it come back after a restart."""
    options = ["--location", "NoServer", "--ray-address", cluster]
    addresses = []
    for _ in range(2):
        ran = command("start", "--name", "restarted", *options)
        addresses.append(ran.stdout.splitlines()[1].split()[1])
        assert command("status", "--address", addresses[-1]).returncode == 0
        assert command("shutdown", "--name", "restarted").returncode == 0
    assert addresses[0] == addresses[1]


def test_no_cluster_is_an_error_that_says_what_to_do(command: Command) -> None:
    """An instance in a Ray of its own would end with the command."""
    ran = command("start", "--ray-address", f"127.0.0.1:{free_port()}")
    assert ran.returncode == 1
    assert "ray start --head" in ran.stderr


def environment_with(home: Path, **variables: str) -> dict[str, str]:
    """Return this process's environment with other variables of Ray's tokens, and none of a token in *home*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    return {**kept, "HOME": str(home), **variables}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "{home}/wrong"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "{home}/missing"},
    ],
    ids=["nothing", "disabled", "no token", "wrong token", "wrong file", "missing file"],
)
def test_a_cluster_that_refuses_the_token_says_so(
    command: Command, cluster: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Not that no cluster is there; the error names the variables."""
    (tmp_path / "wrong").write_text("0" * 64)
    given = {name: value.format(home=tmp_path) for name, value in variables.items()}
    ran = command("start", "--ray-address", cluster, environment=environment_with(tmp_path, **given))
    assert ran.returncode == 1
    told = ran.stderr.splitlines()[-1]
    assert told.startswith(f"Error: the Ray cluster at {cluster} refused this process")
    assert [name in told for name in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN,", "RAY_AUTH_TOKEN_PATH")] == [True] * 3


STARTED_BY_A_SCRIPT = """
import urllib.request
import serve_bridge as serve

def main():
    client = serve.start(name="of-a-script", http_options={"port": 0}, address=ADDRESS)
    client.create_backend("double", lambda request: 2 * int(request.query_params["n"]))
    client.create_endpoint("double", backend="double", route="/double")
    print(client.get_handle("double").call(n=4))
    print(urllib.request.urlopen(client.http_urls[0] + "/double?n=5").read().decode())
    client.shutdown()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("file", [".ray/auth_token", "another"])
def test_a_token_in_a_file_is_enough(cluster: str, tmp_path: Path, file: str) -> None:
    """Ray's own place or RAY_AUTH_TOKEN_PATH; a script starts, calls, asks the proxy, and shuts down."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(os.environ["RAY_AUTH_TOKEN"])
    named = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / file)} if file == "another" else {}
    (tmp_path / "script.py").write_text(STARTED_BY_A_SCRIPT.replace("ADDRESS", repr(cluster)))
    command = [sys.executable, str(tmp_path / "script.py")]
    environment = environment_with(tmp_path, PYTHONPATH=str(ROOT), RAY_AUTH_MODE="token", **named)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)
    assert (ran.returncode, ran.stdout) == (0, "8\n10\n"), ran.stderr


@pytest.mark.parametrize("wrong", [["start", "--port", "99999"], ["start", "--location", "Moon"], ["stop"]])
def test_a_wrong_command_is_exit_code_2(command: Command, wrong: list[str]) -> None:
    """With a hint at the usage."""
    ran = command(*wrong)
    assert ran.returncode == 2
    assert "Usage:" in ran.stderr


def test_the_module_is_the_same() -> None:
    """Where no script is installed."""
    command = [sys.executable, "-m", "serve_bridge", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert serve.__version__ in ran.stdout


def test_start_again_prints_the_address_of_the_same_instance(command: Command, cluster: str, started: str) -> None:
    """A service manager may start it at any time."""
    hosts = ("--allowed-host", "127.0.0.1", "--allowed-host", "*.example")
    ran = command("start", "--name", started, "--port", "0", "--ray-address", cluster, *hosts)
    client = serve.connect(name=started)
    client.close()
    assert (ran.returncode, f"address  {Path(client.address).parent.parent}" in ran.stdout) == (0, True), ran.stderr


def test_start_with_other_options_tells_the_difference(command: Command, cluster: str, started: str) -> None:
    """Nothing is changed."""
    ran = command("start", "--name", started, "--port", "1", "--ray-address", cluster)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)
    assert f"instance {started!r} runs already, with other options: port is 0, not 1; allowed_hosts is" in ran.stderr
