"""Instances: starting, finding, connecting to and ending them."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.listening import free_port
from tests.support.programs import run_program, start_program
from tests.support.waiting import wait_until

Start = Callable[..., serve.Client]


def serve_one(client: serve.Client, code: Any = backends.version_1) -> serve.Handle:
    """Put *code* behind the endpoint `e` at `/e`."""
    client.create_backend("b", code)
    client.create_endpoint("e", backend="b", route="/e")
    return client.get_handle("e")


# Start


def test_the_proxy_answers_when_start_returns(start: Start) -> None:
    """On the port that was asked for."""
    port = free_port()
    client = start(http_options={"port": port})
    assert client.http_urls == [f"http://127.0.0.1:{port}"]
    assert httpx.get(f"{client.http_urls[0]}/-/live", trust_env=False, timeout=30).text == "ok"


def test_start_takes_http_options(start: Start) -> None:
    """As an object too."""
    port = free_port()
    assert start(http_options=serve.HTTPOptions(port=port)).http_urls[0].endswith(str(port))


def test_a_started_client_is_the_current_one(start: Start) -> None:
    """Module functions act on it."""
    client = start()
    serve.create_backend("b", backends.version_1)
    assert list(client.list_backends()) == list(serve.list_backends()) == ["b"]


def test_a_name_can_be_used_once_at_a_time(start: Start, names: Callable[[str], str]) -> None:
    """The error says connect or another name; the first goes on."""
    name = names("instance")
    first = start(name=name)
    with pytest.raises(ValueError, match=rf"'{name}'.*connect\(\).*another name"):
        start(name=name)
    assert first.status()["name"] == name
    first.shutdown()
    start(name=name)


def test_two_instances_do_not_know_each_other(start: Start) -> None:
    """The same names mean different things."""
    first, second = start(), start()
    handles = serve_one(first, backends.version_1), serve_one(second, backends.version_2)
    assert [handle.call() for handle in handles] == ["v1", "v2"]
    first.shutdown()
    assert handles[1].call() == "v2"


@pytest.mark.parametrize("holder", ["socket", "instance"])
def test_a_port_that_is_held_is_an_error(start: Start, runtime_directory: Path, holder: str) -> None:
    """It names host:port, and nothing is left running."""
    with socket.socket() as listener:
        if holder == "socket":
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
        else:
            port = int(start().http_urls[0].rpartition(":")[2])
        before = set(runtime_directory.rglob("serve_bridge/*"))
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            start(http_options={"port": port})
        assert set(runtime_directory.rglob("serve_bridge/*")) == before


def test_a_host_that_is_not_ours_is_an_error(start: Start, runtime_directory: Path, names: Any) -> None:
    """It names host:port; the name is free again."""
    name = names("instance")
    with pytest.raises((OSError, ValueError), match=r"192\.0\.2\.1:0"):
        start(name=name, http_options={"host": "192.0.2.1", "port": 0})
    start(name=name)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"http_options": {"prot": 1}}, ValueError, "did you mean 'port'"),
        ({"http_options": {"port": 70_000}}, ValueError, "127.0.0.1:70000"),
        ({"http_options": {"port": "80"}}, ValueError, "port"),
        ({"http_options": {"location": "Everywhere"}}, ValueError, "EveryNode"),
        ({"http_options": {"middlewares": ["cors"]}}, ValueError, "middlewares"),
        ({"http_options": {"host": "0.0.0.0", "debug": True}}, ValueError, "loopback"),
        ({"http_options": 8000}, TypeError, "HTTPOptions"),
        ({"name": 5}, TypeError, "name"),
        ({"name": "a b"}, ValueError, "name"),
        ({"name": ""}, ValueError, "name"),
        ({"runtime": "dask"}, ValueError, "'ray' or 'local'"),
        ({"prot": 1}, TypeError, "prot"),
    ],
    ids=str,
)
def test_bad_options_start_nothing(start: Start, options: Any, error: type[Exception], text: str) -> None:
    """They are refused before anything runs."""
    with pytest.raises(error, match=text):
        start(**options)


# Connect


def test_connect_finds_an_instance_by_its_address(start: Start) -> None:
    """The client has the same methods."""
    client = start()
    serve_one(client)
    connected = serve.connect(client.address)
    assert connected.get_handle("e").call() == "v1"
    assert connected.http_urls == client.http_urls
    connected.close()


def test_connect_finds_an_instance_by_its_name(start: Start, names: Callable[[str], str]) -> None:
    """By the file it leaves for its user."""
    name = names("instance")
    client = start(name=name)
    connected = serve.connect(name=name)
    assert connected.address == client.address
    connected.close()


def test_connect_finds_an_instance_by_the_environment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVE_BRIDGE_ADDRESS."""
    client = start()
    monkeypatch.setenv("SERVE_BRIDGE_ADDRESS", client.address)
    connected = serve.connect()
    assert connected.name == client.name
    connected.close()


def test_connect_names_the_places_it_looked_in() -> None:
    """The argument, the variable and the file."""
    with pytest.raises(serve.NotConnected, match=r"(?s)address.*SERVE_BRIDGE_ADDRESS.*missing\.json"):
        serve.connect(name="missing")


@pytest.mark.parametrize(
    ("address", "error"),
    [(":::x", ValueError), ("relative.json", ValueError), ("/nowhere/instance.json", ConnectionError), (5, TypeError)],
)
def test_a_wrong_address_is_an_error(address: Any, error: type[Exception]) -> None:
    """It says what an address is, or that nothing runs there."""
    with pytest.raises(error, match="address"):
        serve.connect(address)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVE_BRIDGE_ADDRESS=:::x."""
    monkeypatch.setenv("SERVE_BRIDGE_ADDRESS", ":::x")
    with pytest.raises(ValueError, match="SERVE_BRIDGE_ADDRESS=':::x'"):
        serve.connect()


def test_the_files_of_an_instance_are_its_users_alone(start: Start) -> None:
    """They hold a key."""
    file = Path(start().address)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_file_that_others_can_read_is_refused(start: Start) -> None:
    """The error says how to close it."""
    client = start()
    os.chmod(client.address, 0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        serve.connect(client.address)
    os.chmod(client.address, 0o600)


def test_a_process_without_ray_connects_calls_and_manages(start: Start) -> None:
    """It becomes no Ray driver: it never imports Ray."""
    client = start()
    serve_one(client)
    program = """
        import sys
        import serve_bridge as serve
        serve.connect(sys.argv[1])
        serve.create_endpoint("other", backend="b")
        print(serve.get_handle("e").call(), serve.get_handle("other").call(), "ray" in sys.modules)
    """
    assert run_program(program, client.address) == "v1 v1 False\n"
    assert "other" in client.list_endpoints()


def test_a_client_and_its_handles_work_after_a_fork(start: Start) -> None:
    """The child starts afresh on first use; the parent is not disturbed."""
    client = start()
    handle = serve_one(client)
    assert handle.call() == "v1"
    program = """
        import os, sys
        import serve_bridge as serve
        client = serve.connect(sys.argv[1])
        handle = client.get_handle("e")
        handle.call()
        child = os.fork()
        if child == 0:
            print(handle.call(), client.list_endpoints()["e"]["route"], flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(handle.call())
    """
    assert run_program(program, client.address) == "v1 /e\nv1\n"


def test_the_end_of_a_connected_process_ends_nothing(start: Start) -> None:
    """The instance is its starter's."""
    client = start()
    handle = serve_one(client)
    run_program("import serve_bridge, sys; serve_bridge.connect(sys.argv[1]).list_backends()", client.address)
    assert handle.call() == "v1"


def test_management_from_many_threads(start: Start) -> None:
    """One after the other, none lost."""
    client = start()
    client.create_backend("b", backends.version_1)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: client.create_endpoint(f"e{n}", backend="b", route=f"/{n}"), range(24)))
    assert sorted(client.list_endpoints()) == sorted(f"e{n}" for n in range(24))


# Shutdown


def test_shutdown_twice_is_a_no_op(start: Start) -> None:
    """By the client and by the module."""
    client = start()
    client.shutdown()
    client.shutdown()
    serve.shutdown()
    serve.shutdown()


def test_after_shutdown_everything_is_closed(start: Start) -> None:
    """Every management call, handle and the proxy."""
    client = start()
    handle = serve_one(client)
    url = client.http_urls[0]
    serve.shutdown()
    calls: list[Callable[[], Any]] = [
        client.list_backends,
        serve.list_backends,
        lambda: serve.create_backend("c", backends.version_1),
        lambda: client.get_handle("e"),
        handle.call,
    ]
    for call in calls:
        with pytest.raises(serve.InstanceClosed, match="start"):
            call()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False, timeout=30)


def test_after_shutdown_other_clients_of_the_process_are_closed_too(start: Start) -> None:
    """The current one among them, and their handles."""
    client = start()
    serve_one(client)
    other = serve.connect(client.address)
    handle = other.get_handle("e")
    assert handle.call() == "v1"
    client.shutdown()
    calls: list[Callable[[], Any]] = [other.list_backends, other.status, serve.list_endpoints, handle.call]
    for call in calls:
        with pytest.raises(serve.InstanceClosed, match="start"):
            call()


@pytest.mark.parametrize("options", [{"detached": True}, {"address": "127.0.0.1:6379"}])
def test_a_local_start_refuses_what_belongs_to_ray(options: dict[str, Any]) -> None:
    """Rather than do something else than was asked for."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} means nothing to runtime='local'"):
        serve.start(runtime="local", **options)


def test_a_new_start_works_after_shutdown(start: Start) -> None:
    """As the first did."""
    start()
    serve.shutdown()
    assert serve_one(start()).call() == "v1"


def test_shutdown_finishes_what_was_accepted(start: Start, tmp_path: Path) -> None:
    """It drains first."""
    client = start()
    client.create_backend("gate", backends.Gate, tmp_path)
    client.create_endpoint("gate", backend="gate")
    handle = client.get_handle("gate")
    with ThreadPoolExecutor(2) as threads:
        answer = threads.submit(handle.call, 1)
        wait_until((tmp_path / "begun-1").exists)
        ended = threads.submit(client.shutdown)
        (tmp_path / "open").touch()
        assert answer.result(20) == 1
        ended.result(20)


def test_shutdown_leaves_no_file(start: Start, runtime_directory: Path) -> None:
    """Nor a directory of its own."""
    before = set(runtime_directory.rglob("serve_bridge/**/*"))
    client = start()
    serve_one(client)
    client.shutdown()
    assert set(runtime_directory.rglob("serve_bridge/**/*")) == before


def test_without_an_instance_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start or connect."""
    assert (
        run_program("""
        import serve_bridge as serve
        try:
            serve.list_backends()
        except serve.NotConnected as error:
            print("start()" in str(error), "connect()" in str(error))
    """)
        == "True True\n"
    )


def test_a_client_of_another_process_learns_of_the_end(start: Start, tmp_path: Path) -> None:
    """Its calls raise an error of ours, and do not hang."""
    program = """
        import sys
        from pathlib import Path
        import serve_bridge as serve
        from tests.support.waiting import wait_until
        address, ended = sys.argv[1:]
        handle = serve.connect(address).get_handle("e")
        print(handle.call(), flush=True)
        wait_until(Path(ended).exists, 60)
        for call in (handle.options(timeout_s=5).call, serve.list_backends):
            try:
                call()
            except serve.ServeBridgeError as error:
                print("an error of ours", flush=True)
    """
    client = start()
    serve_one(client)
    with start_program(program, client.address, str(tmp_path / "ended")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "v1\n"
        client.shutdown()
        (tmp_path / "ended").touch()
        assert process.stdout.read() == "an error of ours\n" * 2
