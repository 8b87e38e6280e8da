"""`serve-bridge doctor` as its users run it: against an instance, and where there is none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import serve_bridge as serve
from serve_bridge.cli.doctor import collection, versions
from serve_bridge.cli.doctor.doctor import report_of
from serve_bridge.cli.doctor.findings import error, warning
from serve_bridge.cli.doctor.ports import PortFacts
from serve_bridge.cli.main import main
from serve_bridge.routing_table import BackendRoute, RoutingTable
from serve_bridge.wire.address import SocketAddress
from tests.support.listening import free_port
from tests.support.listening_engine import start_listening


@pytest.fixture(scope="module")
def runtime() -> str:
    """The verb is the same on both."""
    return "local"


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take faults of the test's machine away: a cleaned temporary directory, Ray's token, and versions with faults."""
    monkeypatch.setattr(versions, "FIXED", {})
    monkeypatch.setattr(collection, "_CLEANING", tmp_path / "absent")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in collection.TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def doctor(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Run the verb; return its exit code and its data."""
    answer = CliRunner().invoke(main, ["doctor", "--format", "json", *arguments], env=environment)
    return answer.exit_code, json.loads(answer.stdout)


def texts(data: dict[str, Any], check: str) -> list[str]:
    """Return the texts of the findings of a check."""
    return [each["text"] for each in data["findings"] if each["check"] == check]


@pytest.fixture(scope="module")
def slow(client: serve.Client) -> serve.Client:
    """The shared instance, with an endpoint that may take longer than gunicorn's workers."""
    client.create_backend("slow", lambda request: None)
    client.create_endpoint("slow", backend="slow", route="/slow", timeout_s=40)
    return client


LONG = {"GUNICORN_CMD_ARGS": "--timeout 60"}


def test_an_instance_without_a_fault_has_no_finding(slow: serve.Client) -> None:
    """The exit code is 0, and checks without their facts are named."""
    code, data = doctor("--address", slow.address, environment=LONG)
    assert (code, data["findings"]) == (0, [])
    assert set(data["left_out"]) == {"drains", "forks"}


def test_a_finding_ends_with_exit_code_1(slow: serve.Client) -> None:
    """Scripts need not read the output."""
    code, data = doctor("--address", slow.address, environment={"GUNICORN_CMD_ARGS": "--timeout 35"})
    assert code == 1
    assert texts(data, "deadlines") == [
        "endpoint 'slow' may take 40 s, and gunicorn kills a sync worker after 35 s without an answer"
    ]


def test_the_text_has_each_remedy(slow: serve.Client) -> None:
    """Below its finding."""
    answer = CliRunner().invoke(main, ["doctor", "--address", slow.address], env={"GUNICORN_CMD_ARGS": "-t 35"})
    assert "warning: deadlines: endpoint 'slow'" in answer.stdout
    assert "    remedy: lower its timeout_s below 35" in answer.stdout
    assert answer.stdout.endswith("0 errors, 1 warnings\n")


def test_without_an_instance_the_machine_is_checked_alone() -> None:
    """The first finding says where the instance was looked for."""
    code, data = doctor("--name", "nowhere")
    assert code == 1
    assert "no running instance 'nowhere' found" in texts(data, "instance")[0]
    assert data["left_out"]["clocks"] == "the engine did not answer"
    assert data["findings"][0]["remedy"].startswith("start the instance if it does not run")


def test_drains_that_no_engine_has_told_are_left_out() -> None:
    """A check without its facts must not look like a check without a finding."""
    _, data = doctor("--name", "nowhere", "--grace-period", "1")
    assert data["left_out"]["drains"] == "the engine did not answer"


def test_the_remedy_of_a_wrong_variable_is_not_a_start() -> None:
    """The text names the variable and the way out."""
    _, data = doctor(environment={"SERVE_BRIDGE_ADDRESS": "nonsense"})
    assert "SERVE_BRIDGE_ADDRESS='nonsense'" in texts(data, "instance")[0]
    assert data["findings"][0]["remedy"].startswith("correct the address, the variable or the file")


def test_a_user_without_a_home_gets_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A web host in a container with any user id keeps no state, and needs no home."""
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    code, data = doctor("--name", "nowhere")
    assert (code, {each["check"] for each in data["findings"]}) == (1, {"instance"})


@pytest.mark.parametrize("place", ["XDG_STATE_HOME", "HOME"])
def test_a_directory_in_which_the_user_may_not_look_gets_a_report(
    slow: serve.Client, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the environment of root, which `su` keeps."""

    def refuse(path: Any, **_: Any) -> os.stat_result:
        if str(path).startswith(str(tmp_path / "closed")):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path)

    stat = os.stat
    monkeypatch.setattr(os, "stat", refuse)
    code, data = doctor("--address", slow.address, environment={**LONG, place: str(tmp_path / "closed")})
    assert (code, data["findings"]) == (0, [])


def test_a_web_host_needs_no_key_of_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that need the role manage are left out; the others are made."""
    port = free_port()
    engine = start_listening("doctored", tmp_path, port)
    try:
        monkeypatch.setenv("SERVE_BRIDGE_ADDRESS", f"serve-bridge://127.0.0.1:{port}/doctored")
        monkeypatch.setenv("SERVE_BRIDGE_KEY_FILE", str(tmp_path / "doctored.forward.key"))
        code, data = doctor()
        assert (code, data["findings"]) == (0, [])
        assert data["left_out"]["tokens"] == "the key of this process lacks the role manage"
        monkeypatch.setenv("SERVE_BRIDGE_KEY_FILE", str(tmp_path / "doctored.manage.key"))
        _, data = doctor(environment=LONG)
        assert set(data["left_out"]) == {"drains", "forks"}
    finally:
        engine.shutdown()


@pytest.mark.parametrize("variable", ["SERVE_BRIDGE_KEY_FILE", "SERVE_BRIDGE_TLS_KEY"])
def test_open_modes_are_found(slow: serve.Client, tmp_path: Path, variable: str) -> None:
    """Of a key that a variable names, among others."""
    key = tmp_path / "web.key"
    key.touch(0o644)
    code, data = doctor("--address", slow.address, environment={**LONG, variable: str(key)})
    assert code == 1
    assert texts(data, "files") == [f"{key} has mode 644, so other users can open it"]


def test_open_modes_of_a_key_for_tls_are_found(slow: serve.Client, tmp_path: Path) -> None:
    """It is found beside the key file, by its name."""
    (tmp_path / "web.key").touch(0o600)
    key = tmp_path / f"{slow.name}.tls-key.pem"
    key.touch(0o644)
    variables = {**LONG, "SERVE_BRIDGE_KEY_FILE": str(tmp_path / "web.key")}
    _, data = doctor("--address", slow.address, environment=variables)
    assert texts(data, "files") == [f"{key} has mode 644, so other users can open it"]


@pytest.mark.parametrize(("line", "count"), [("TimeoutStopSec=10", 1), ("TimeoutStopSec=60", 0)])
def test_a_unit_is_compared_with_the_drains(slow: serve.Client, tmp_path: Path, line: str, count: int) -> None:
    """The unit is read from its file."""
    unit = tmp_path / "web.service"
    unit.write_text(f"[Service]\n{line}\n")
    code, data = doctor("--address", slow.address, "--unit", str(unit), environment=LONG)
    assert (code, len(texts(data, "drains"))) == (count, count)


@pytest.mark.parametrize(("seconds", "count"), [("10", 1), ("60", 0)])
def test_a_pod_is_compared_with_the_drains(slow: serve.Client, seconds: str, count: int) -> None:
    """By its terminationGracePeriodSeconds."""
    _, data = doctor("--address", slow.address, "--grace-period", seconds, environment=LONG)
    assert len(texts(data, "drains")) == count


@pytest.mark.parametrize("seconds", ["nan", "inf", "-5"])
def test_a_grace_period_that_is_not_a_time_is_a_wrong_option(seconds: str) -> None:
    """With NaN each comparison would pass."""
    answer = CliRunner().invoke(main, ["doctor", "--grace-period", seconds])
    assert answer.exit_code == 2
    assert answer.stderr.startswith("Error: --grace-period must be a number of seconds")


def test_a_name_of_other_characters_is_a_wrong_option() -> None:
    """It would lead out of the directories of instances."""
    answer = CliRunner().invoke(main, ["doctor", "--name", "../x"])
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "instance name must be" in answer.stderr


def test_a_directory_without_a_state_is_a_wrong_option(slow: serve.Client, tmp_path: Path) -> None:
    """Its files would be checked, and look right."""
    answer = CliRunner().invoke(main, ["doctor", "--address", slow.address, "--state", str(tmp_path)])
    assert answer.exit_code == 2
    assert f"--state {tmp_path} has no folder {slow.name}" in answer.stderr
    (tmp_path / slow.name).mkdir(mode=0o755)
    (tmp_path / slow.name).chmod(0o755)
    _, data = doctor("--address", slow.address, "--state", str(tmp_path), environment=LONG)
    assert texts(data, "files") == [f"{tmp_path / slow.name} has mode 755, so other users can open it"]


def test_an_output_that_cannot_be_written_is_one_line() -> None:
    """As a report into a file on a full disk."""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "serve_bridge", "doctor", "--name", "nowhere"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode != 0
    assert ran.stderr.startswith("Error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("echo LoadState=loaded", "has no TimeoutStopSec; give a service"),
        ("echo LoadState=loaded; echo TimeoutStopUSec=soon", "'soon' is not a time span"),
        ("echo LoadState=not-found", "systemd does not have it (not-found)"),
        ("printf '\\377' >&2; exit 4", "systemd does not have it"),
        ("exec sleep 60", "systemctl does not answer within 0.2 s"),
    ],
)
def test_an_answer_of_systemctl_without_a_time_is_one_line(
    answer: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer has no time to stop, for example."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(collection, "SYSTEMCTL_S", 0.2 if "sleep" in answer else 60.0)
    printed = CliRunner().invoke(main, ["doctor", "--unit", "web.timer"])
    assert printed.exit_code == 2
    assert text in printed.stderr
    assert printed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("./absent.service", "cannot be read"),
        ("./bad.service", "is not a time span"),
        ("./binary.service", "is not a text file"),
        ("./pipe.service", "it is not a regular file"),
        ("/dev/zero", "it is not a regular file"),
        ("absent-9f.service", "--unit"),
    ],
)
def test_a_bad_unit_is_one_line(
    unit: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the unit."""
    monkeypatch.chdir(tmp_path)
    Path("bad.service").write_text("TimeoutStopSec=soon\n")
    Path("binary.service").write_bytes(b"\xff\xfe")
    os.mkfifo("pipe.service")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["doctor", "--unit", unit])
    printed = capsys.readouterr().err
    assert text in printed
    assert unit in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("print('hello')", []),
        ("import threading; threading.Timer(60, print).start()", ["starts threads (Thread-1)"]),
        ("raise LookupError('no settings')", ["fails: LookupError: no settings"]),
        ("raise ValueError('\\ud800 one\\n  two')", ["fails: ValueError: \ud800 one two"]),
        ("input()", ["fails: EOFError"]),
        ("import os; os._exit(3)", ["fails: it ends the process with exit code 3"]),
    ],
)
def test_the_web_application_is_imported(
    source: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, so that its threads and its output do no harm."""
    monkeypatch.chdir(tmp_path)
    Path("shop_app.py").write_text(source)
    _, data = doctor("--name", "nowhere", "--app", "shop_app:app")
    assert len(texts(data, "forks")) == len(found)
    for text, part in zip(texts(data, "forks"), found, strict=True):
        assert part in text


def test_gunicorns_worker_class_is_read() -> None:
    """From GUNICORN_CMD_ARGS, in both forms."""
    for words in ("-k gevent --preload", "--preload --worker-class=gevent"):
        facts = collection.fork_facts(None, {"GUNICORN_CMD_ARGS": words})
        assert (facts.worker_class, facts.preloads) == ("gevent", True)


def test_the_file_system_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    """Mounts lie inside each other."""
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/b /run/my\\040disk xfs rw 0 0\n")
    places = [Path(path) for path in ("/srv/x", "/run/x", "/run/my disk/x", "/runs")]
    assert [collection.filesystem_of(each, mounts) for each in places] == ["ext4", "tmpfs", "xfs", "ext4"]


def table(*replicas: SocketAddress) -> RoutingTable:
    """Return a routing table with one backend."""
    return RoutingTable("g", 1, {"b": BackendRoute(replicas, 1, 1)}, {})


def test_replicas_are_tried_over_tcp(tmp_path: Path) -> None:
    """A replica with a unix socket on this machine needs no port."""
    (tmp_path / "here").touch()
    closed = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = collection.ports_of_replicas(
            lambda: table(
                SocketAddress("here", str(tmp_path / "here"), ("127.0.0.1", closed)),
                SocketAddress("open", str(tmp_path / "open"), server.getsockname()),
                SocketAddress("closed", str(tmp_path / "closed"), ("127.0.0.1", closed)),
                SocketAddress("local", str(tmp_path / "local")),
            )
        )
        assert found == [
            PortFacts("a replica of backend 'b'", "127.0.0.1:{}".format(*server.getsockname()[1:]), None),
            PortFacts("a replica of backend 'b'", f"127.0.0.1:{closed}", "Connection refused"),
        ]


def test_a_replica_that_ends_during_the_tries_is_left_out(tmp_path: Path) -> None:
    """Its port is closed without a fault."""
    tables = iter([table(SocketAddress("ended", str(tmp_path / "x"), ("127.0.0.1", free_port()))), table()])
    assert collection.ports_of_replicas(lambda: next(tables)) == []


def test_errors_come_before_warnings() -> None:
    """The reader meets the worst first."""
    report = report_of([warning("a", "w", "r"), error("b", "e", "r")], {})
    assert [each["severity"] for each in report.data["findings"]] == ["error", "warning"]


def test_a_missing_file_has_no_facts(tmp_path: Path) -> None:
    """A link has, since it is a fault."""
    assert collection.file_facts(tmp_path / "absent") is None
    (tmp_path / "link").symlink_to("absent")
    facts = collection.file_facts(tmp_path / "link")
    assert facts is not None
    assert facts.is_link
    assert facts.owner == os.geteuid()
