"""An instance that web workers on other hosts reach with an address over TCP and a key file."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge.adapters import Bridge, ForwardedRoute
from serve_bridge.client.client import find_client, link_of
from serve_bridge.instance import remote_address
from serve_bridge.instance.instance_file import ADDRESS_VARIABLE
from serve_bridge.instance.key_files import KEY_FILE_VARIABLE, kept_key
from serve_bridge.instance.remote_instance import find_remote
from serve_bridge.wire.address import SocketAddress
from tests.support.listening import free_port, has_ipv6
from tests.support.listening_engine import remove_sockets, start_listening
from tests.support.programs import run_program, start_program
from tests.support.waiting import wait_until

NAME = "far"
SCOPE = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "http_version": "1.1"}
"""A request that a web worker forwards."""


def engine(port: int, keys: Path, name: str = NAME, **options: Any) -> serve.Client:
    """Start an instance that listens at *port*, with a backend, and remove its unix sockets, as on another host."""
    client = start_listening(name, keys, port, **options)
    client.create_backend("hello", lambda request: "hello")
    client.create_endpoint("hello", backend="hello", route="/hello")
    client.create_backend("double", lambda request: 2 * request.data)
    client.create_endpoint("double", backend="double")
    remove_sockets(client)
    return client


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the key files."""
    directory = tmp_path_factory.mktemp("keys")
    directory.chmod(0o700)
    return directory


@pytest.fixture(scope="module")
def port(keys: Path) -> Iterator[int]:
    """The port of an instance."""
    port = free_port()
    client = engine(port, keys)
    yield port
    client.shutdown()


def variables(port: int, keys: Path, name: str = NAME) -> dict[str, str]:
    """Return the two variables of a web host."""
    return {
        "SERVE_BRIDGE_ADDRESS": f"serve-bridge://127.0.0.1:{port}/{name}",
        "SERVE_BRIDGE_KEY_FILE": str(keys / f"{name}.call.key"),
    }


@pytest.fixture
def web_host(monkeypatch: pytest.MonkeyPatch, port: int, keys: Path, tmp_path: Path) -> str:
    """Make this process a web host with the key of calls; return the address."""
    for name, value in variables(port, keys).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return f"serve-bridge://127.0.0.1:{port}/{NAME}"


def test_two_variables_are_enough(port: int, keys: Path, tmp_path: Path) -> None:
    """A process without any file of the instance calls it, and does not load Ray."""
    program = """
        import sys
        import serve_bridge as serve
        client = serve.connect()
        handle = client.get_handle("double", missing_ok=True)
        print(client.address, client.name, handle.call(21), "ray" in sys.modules)
    """
    environment = {**variables(port, keys), "XDG_RUNTIME_DIR": str(tmp_path)}
    address = environment["SERVE_BRIDGE_ADDRESS"]
    assert run_program(program, environment=environment) == f"{address} {NAME} 42 False\n"


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
def test_an_ipv6_address_leads_to_an_instance(keys: Path, tmp_path: Path) -> None:
    """Its host is in brackets, in the address, in `listen` and in the error about a taken port."""
    port, first = free_port("::1"), free_port("::1", following=8)
    options: dict[str, Any] = {
        "runtime": "local",
        "listen": f"[::1]:{port}",
        "http_options": {"location": "NoServer"},
    }
    last = first + 8
    client = serve.start(name="six", data_ports=f"{first}-{last}", key_file=str(keys / "six"), **options)
    try:
        client.create_backend("double", lambda request: 2 * request.data)
        client.create_endpoint("double", backend="double")
        assert {first <= each <= last for each in _ports(client)} == {True}
        remove_sockets(client)
        environment = {**variables(port, keys, "six"), "XDG_RUNTIME_DIR": str(tmp_path)}
        environment["SERVE_BRIDGE_ADDRESS"] = f"serve-bridge://[::1]:{port}/six"
        program = "import serve_bridge as serve\nprint(serve.connect().get_handle('double', missing_ok=True).call(21))"
        assert run_program(program, environment=environment) == "42\n"
        with pytest.raises(OSError, match=re.escape(f"cannot listen on [::1]:{port}: another process has this port")):
            serve.start(name="seven", key_file=str(tmp_path / "seven"), **options)
    finally:
        client.shutdown()


def test_a_pickled_handle_is_used_where_only_the_variables_are(web_host: str, tmp_path: Path) -> None:
    """The key does not travel with it."""
    client = find_client(None, NAME)
    handle = pickle.dumps(client.get_handle("double", missing_ok=True))
    client.close()
    assert Path(os.environ[KEY_FILE_VARIABLE]).read_text().split()[3].encode() not in handle
    program = "import pickle, sys\nprint(pickle.loads(bytes.fromhex(sys.argv[1])).call(2))"
    assert run_program(program, handle.hex()) == "4\n"


def test_an_operator_manages_from_another_host(monkeypatch: pytest.MonkeyPatch, web_host: str, keys: Path) -> None:
    """The command line finds the instance by the same variables."""
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(keys / f"{NAME}.manage.key"))
    program = "from serve_bridge.cli.main import main\nmain(['status', '--format', 'json'])"
    assert f'"name": "{NAME}"' in run_program(program)


def test_the_path_of_a_secret_is_a_key_file_too(monkeypatch: pytest.MonkeyPatch, web_host: str, keys: Path) -> None:
    """It stands for all roles."""
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(keys / "secret"))
    client = find_client(None, NAME)
    assert "double" in client.list_endpoints()
    client.close()


def test_a_web_worker_reconnects_after_a_restart_at_the_same_address(
    monkeypatch: pytest.MonkeyPatch, keys: Path, tmp_path: Path
) -> None:
    """Address, data ports and keys are the same, so the worker needs no new setting. It has the weakest key."""
    port, first = free_port(), free_port(following=8)
    last = first + 8
    ports = f"{first}-{last}"
    for name, value in variables(port, keys, "again").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(keys / "again.forward.key"))
    route = ForwardedRoute("hello")
    bridge = Bridge()
    seen = []
    for _ in range(2):
        started = engine(port, keys, "again", data_ports=ports)
        wait_until(lambda: bridge.ask(route, SCOPE, {}, b"", None).status == 200)
        seen.append((bridge.client().generation, _ports(started), started))
        assert bridge.client().generation == started.generation
        started.shutdown()
    bridge.close()
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]
    assert {first <= each <= last for each in seen[0][1]} == {True}


KILLED = """
    import os, signal, sys
    import serve_bridge as serve
    client = serve.start(
        runtime="local", name="near", listen=sys.argv[1], key_file=sys.argv[2], http_options={"location": "NoServer"}
    )
    client.create_backend("pid", lambda request: str(os.getpid()))
    client.create_endpoint("pid", backend="pid", route="/pid")
    print(os.getpid(), flush=True)
    signal.pause()
"""


def test_a_web_worker_on_the_same_machine_finds_the_next_start_after_a_kill(
    monkeypatch: pytest.MonkeyPatch, keys: Path
) -> None:
    """It knows the name only. The killed instance has left its file, and the next one listens at the same address."""
    with tempfile.TemporaryDirectory(prefix="sb-") as runtime:  # short: sockets are in it
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
        address, route, bridge = f"127.0.0.1:{free_port()}", ForwardedRoute("pid"), Bridge(name="near")
        for _ in range(2):
            with start_program(KILLED, address, str(keys / "near")) as process:
                assert process.stdout is not None
                pid = process.stdout.readline().strip().encode()
                wait_until(lambda pid=pid: bridge.ask(route, SCOPE, {}, b"", None).body == pid)
                process.kill()
        bridge.close()


def _ports(client: serve.Client) -> list[int]:
    table = link_of(client).routing_table()
    assert table is not None
    return sorted(each.tcp[1] for each in table.listeners() if each.tcp is not None)


def refused(address: str) -> str:
    """Return why *address* cannot be used."""
    with pytest.raises((serve.NotConnected, serve.ConfigError)) as caught:
        find_client(address, NAME)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("serve-bridge://127.0.0.1/far", "address='serve-bridge://127.0.0.1/far' is not an address of the form"),
        ("serve-bridge://127.0.0.1:7000", "the name of the instance is missing"),
        ("serve-bridge://127.0.0.1:7000/a b", "instance name must be"),
        ("serve-bridge:127.0.0.1:7000/far", "is not an address: use the path of .* or serve-bridge://HOST:PORT/NAME"),
    ],
)
def test_a_malformed_address_is_named(address: str, message: str) -> None:
    """Nothing is connected."""
    assert re.search(message, refused(address))


def test_an_address_has_three_parts() -> None:
    """The host of an IPv6 address is in brackets."""
    found = remote_address.parsed("serve-bridge://[::1]:7000/a.b", "address")
    assert (found, str(found)) == (("::1", 7000, "a.b"), "serve-bridge://[::1]:7000/a.b")


def test_an_address_without_a_listener_is_named(web_host: str) -> None:
    """The reason of the system is in the same line."""
    address = f"serve-bridge://127.0.0.1:{free_port()}/{NAME}"
    assert re.search(f"no instance answers at {address}: .*[Rr]efused", refused(address))


def test_a_listener_of_another_kind_is_named(web_host: str) -> None:
    """It is not an instance."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"serve-bridge://127.0.0.1:{silent.getsockname()[1]}/{NAME}"
        assert f"at {address}: cannot reach controller: no valid handshake within 1.0 s; start it" in refused(address)


def test_a_server_of_another_protocol_is_named(web_host: str) -> None:
    """The way out is the address, or the key."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"serve-bridge://127.0.0.1:{server.getsockname()[1]}/{NAME}"
        thread = threading.Thread(target=answer_once, args=[server, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
        thread.start()
        text = refused(address)
        thread.join()
    assert f"no instance proves itself at {address}" in text
    assert "does not speak this protocol; correct the address, or copy far.call.key again" in text


def answer_once(server: socket.socket, answer: bytes) -> None:
    """Answer the first bytes of one connection, and wait for its end."""
    peer, _ = server.accept()
    with peer, contextlib.suppress(ConnectionError):
        peer.recv(1)
        peer.sendall(answer)
        while peer.recv(4096):
            pass


def test_another_name_is_named(web_host: str) -> None:
    """The instance there has another one."""
    address = web_host.replace(NAME, "near")
    assert refused(address) == f"an instance answers at {address}, but its name is not 'near'; use the NAME of `start`"


def test_a_key_of_another_instance_is_named(monkeypatch: pytest.MonkeyPatch, web_host: str, tmp_path: Path) -> None:
    """With the file to copy again."""
    kept_key(NAME, str(tmp_path / "secret"))
    wrong = tmp_path / f"{NAME}.forward.key"
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(wrong))
    assert re.search(
        f"does not know the key in SERVE_BRIDGE_KEY_FILE={wrong}: .*copy far.forward.key", refused(web_host)
    )


def test_a_changed_key_is_named(monkeypatch: pytest.MonkeyPatch, web_host: str, tmp_path: Path) -> None:
    """Its id is right, but the instance cannot prove that it has it."""
    words = Path(os.environ[KEY_FILE_VARIABLE]).read_text().split()
    wrong = tmp_path / "changed.key"
    wrong.touch(0o600)
    wrong.write_text(" ".join([*words[:3], "00" * 32]))
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(wrong))
    text = refused(web_host)
    assert f"with the key in SERVE_BRIDGE_KEY_FILE={wrong}" in text
    assert "copy far.call.key again" in text


def test_a_secret_of_another_instance_is_named(monkeypatch: pytest.MonkeyPatch, web_host: str, tmp_path: Path) -> None:
    """The file to copy exists: a secret has no file of a role."""
    kept_key(NAME, str(tmp_path / "secret"))
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "secret"))
    assert "copy secret again from the host" in refused(web_host)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch, web_host: str) -> None:
    """With the variable to set."""
    monkeypatch.delenv(KEY_FILE_VARIABLE)
    assert "set SERVE_BRIDGE_KEY_FILE" in refused(web_host)


def test_the_facts_hold_no_key_but_the_own(web_host: str) -> None:
    """The controller tells where the instance is, and nothing secret."""
    found = find_remote(remote_address.parsed(web_host, "address"))
    assert (found.name, found.runtime, found.directory, found.address) == (NAME, "local", "", web_host)
    assert found.secret not in repr(found)


def start_small(ports: str, port: int, keys: Path) -> serve.Client:
    """Start an instance without a proxy, whose replicas take their ports from *ports*."""
    return serve.start(
        runtime="local",
        name="small",
        listen=f"127.0.0.1:{port}",
        data_ports=ports,
        key_file=str(keys / "small"),
        http_options={"location": "NoServer"},
    )


def test_a_range_that_is_too_small_names_both_numbers(keys: Path) -> None:
    """The backend is not created, and the name is free again."""
    first = free_port(following=1)
    client = start_small(f"{first}-{first + 1}", free_port(), keys)
    try:
        with pytest.raises(serve.BackendStartError, match=r"it has 2 ports, and at least 3 processes need one"):
            client.create_backend("three", lambda request: None, config={"num_replicas": 3})
        assert client.list_backends() == {}
    finally:
        client.shutdown()


def test_a_port_of_another_process_is_skipped(keys: Path) -> None:
    """The next one of the range is used."""
    first = free_port(following=3)
    with socket.create_server(("127.0.0.1", first)):
        client = start_small(f"{first}-{first + 3}", free_port(), keys)
        try:
            client.create_backend("one", lambda request: None)
            address: SocketAddress = link_of(client).routing_table().backends["one"].replicas[0]  # type: ignore[union-attr]
            assert address.tcp is not None
            assert first < address.tcp[1] <= first + 3
        finally:
            client.shutdown()


def test_a_taken_address_is_named(keys: Path, port: int, tmp_path: Path) -> None:
    """Nothing of the second start is left."""
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: another process has this port"):
        start_small("1-2", port, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_address_of_another_host_is_named(tmp_path: Path) -> None:
    """192.0.2.0/24 is for documentation, so no host has it."""
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:7000"):
        serve.start(runtime="local", name="away", listen="192.0.2.1:7000", key_file=str(tmp_path / "s"))
    assert list(tmp_path.iterdir()) == []
