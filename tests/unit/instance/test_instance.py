"""The file by which an instance is found."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from serve_bridge.client.client import Client
from serve_bridge.client.instance_link import link_at
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance import membership
from serve_bridge.instance.directories import base_directory, directory_here
from serve_bridge.instance.directory_claim import claim_directory
from serve_bridge.instance.instance import Instance, new_generation
from serve_bridge.instance.liveness import is_alive
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.socket_files import bind_unix, private_directory
from tests.support.programs import run_program


@pytest.fixture(autouse=True)
def _runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(instances.ADDRESS_VARIABLE, raising=False)
    with tempfile.TemporaryDirectory(prefix="sb-") as directory:  # short: sockets are in it
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield


def made(name: str = "main") -> Instance:
    """Return an instance with its directory."""
    generation = new_generation()
    directory = base_directory() / f"{name}-{generation}"
    private_directory(directory)
    controller = SocketAddress("controller", str(directory / "controller.sock"))
    return Instance(
        name=name,
        generation=generation,
        runtime="local",
        directory=str(directory),
        controller=controller,
        secret=Key().secret.hex(),
    )


def test_an_instance_is_found_by_name_address_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three lead to the same."""
    instance = made()
    instances.write(instance)
    monkeypatch.setenv(instances.ADDRESS_VARIABLE, instance.address)
    found = [instances.find(instance.address, "other"), instances.find(None, "other")]
    monkeypatch.delenv(instances.ADDRESS_VARIABLE)
    assert [*found, instances.find(None, "main")] == [instance] * 3


def test_the_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first place given counts."""
    instance = made()
    instances.write(instance)
    monkeypatch.setenv(instances.ADDRESS_VARIABLE, "/nowhere/instance.json")
    assert instances.find(instance.address, "main") == instance


def test_files_and_directories_are_the_users_alone() -> None:
    """They lead to a key."""
    instance = made()
    instances.write(instance)
    paths = [Path(instance.address), instances.discovery_file("main")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in paths} == {0o700}


def test_the_key_is_not_shown() -> None:
    """Not by `repr`, which logs print."""
    instance = made()
    assert instance.secret not in repr(instance)
    assert instance.key.secret.hex() == instance.secret


def test_a_file_that_others_can_read_is_refused() -> None:
    """The message has the cure."""
    instance = made()
    instances.write(instance)
    os.chmod(instance.address, 0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        instances.find(instance.address, "main")


def test_a_directory_that_others_can_enter_is_refused() -> None:
    """The message has the cure."""
    private_directory(base_directory())
    base_directory().chmod(0o755)
    with pytest.raises(OSError, match="chmod 700"):
        claim_directory("main", "g2")


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """It could lead anywhere."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base_directory().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="remove it"):
        claim_directory("main", "g1")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's directory is made by root")
def test_a_directory_that_another_user_has_taken_leads_to_another_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a sticky directory this user cannot remove it, so the advice is to go elsewhere."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    taken = base_directory()
    taken.mkdir(mode=0o700)
    os.chown(taken, 12345, 12345)
    with pytest.raises(OSError, match=f"{taken} belongs to another user; .*set XDG_RUNTIME_DIR") as caught:
        claim_directory("main", "g1")
    assert "remove" not in str(caught.value)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    with pytest.raises(OSError, match=r"set XDG_RUNTIME_DIR .*, or /var/lib/serve_bridge"):
        claim_directory("main", "g1")


def test_a_runtime_directory_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the variable that it comes from, and the way out."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"XDG_RUNTIME_DIR='.*file' cannot hold .*; set it to a directory of this user"):
        claim_directory("main", "g1")


def test_directories_above_are_made_for_this_user_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that the next start does not refuse them."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    with claim_directory("main", "g1") as claim:
        above = [claim.directory, *list(claim.directory.parents)[:3]]
    assert {stat.S_IMODE(path.stat().st_mode) for path in above} == {0o700}


def test_without_an_instance_the_message_says_where_was_looked() -> None:
    """All three places."""
    with pytest.raises(NotConnected, match="SERVE_BRIDGE_ADDRESS") as caught:
        instances.find(None, "main")
    assert str(instances.discovery_file("main")) in str(caught.value)


@pytest.mark.parametrize("address", ["relative.json", "/tmp/other.txt", "ray://host:1", "", "/a\0.json"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError):
        instances.find(address, "main")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"name": 1}', b'{"name": "\xff"}'])
def test_a_file_that_holds_no_instance_is_refused(content: bytes) -> None:
    """The message names it."""
    instance = made()
    path = Path(instance.address)
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"instance\.json"):
        instances.find(instance.address, "main")


def test_a_directory_is_no_instance() -> None:
    """Nor anything else that cannot be read."""
    instance = made()
    Path(instance.address).mkdir()
    with pytest.raises(ConfigError):
        instances.find(instance.address, "main")


def test_an_instance_that_died_gives_its_name_up() -> None:
    """Nobody listens where it did."""
    old, new = made(), made()
    instances.write(old)
    instances.write(new)
    assert instances.find(None, "main") == new


def test_a_live_instance_keeps_its_name() -> None:
    """The newer one is found by address only."""
    old, new = made(), made()
    with bind_unix(old.controller.unix) as sock:
        sock.listen()
        instances.write(old)
        instances.write(new)
        assert instances.find(None, "main") == old
        assert instances.find(new.address, "main") == new


def test_an_instance_at_the_address_of_a_killed_one_takes_the_name_over() -> None:
    """A listener answers there, but it is the new instance itself. Another live instance over TCP keeps the name."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as elsewhere:
        killed, new, other = (
            msgspec.structs.replace(each, controller=SocketAddress("controller", "", place.getsockname()))
            for each, place in ((made(), listener), (made(), listener), (made(), elsewhere))
        )
        instances.write(killed)
        instances.write(new)
        assert instances.find(None, "main") == new
        instances.write(other)
        assert instances.find(None, "main") == new


def test_the_lasting_address_is_the_copy_by_name() -> None:
    """The next start of that name is found there too; unless somebody else has the name."""
    old, new = made(), made()
    with bind_unix(old.controller.unix) as sock:
        sock.listen()
        instances.write(old)
        instances.write(new)
        assert instances.lasting_address(old) == str(instances.discovery_file("main"))
        assert instances.lasting_address(new) == new.address


def test_removing_an_instance_leaves_nothing() -> None:
    """Twice is once."""
    instance = made()
    instances.write(instance)
    instances.remove(instance)
    instances.remove(instance)
    assert list(base_directory().iterdir()) == []


def test_removing_an_instance_leaves_its_successors_file() -> None:
    """The name belongs to another one by now."""
    old, new = made(), made()
    instances.write(old)
    instances.write(new)
    instances.remove(old)
    assert instances.find(None, "main") == new


def test_what_a_killed_instance_left_is_swept_by_the_next() -> None:
    """No process claims its directory any more."""
    with claim_directory("killed", "g1") as killed, socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(killed.directory / "controller.sock"))
    with claim_directory("next", "g2"):
        assert not killed.directory.exists()


def test_an_instance_that_has_not_begun_to_listen_is_not_swept() -> None:
    """Its process claims the directory, whether sockets are there or answer."""
    with claim_directory("born", "g1") as born, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(born.directory / "controller.sock"))
        with claim_directory("next", "g2"):
            assert born.directory.exists()


def test_a_failed_start_leaves_no_directory() -> None:
    """Unless another process claims it."""
    with pytest.raises(ValueError, match="told to"), claim_directory("main", "g1"):
        raise ValueError("told to")
    assert list(base_directory().iterdir()) == []


BIRTHS = """
    import sys
    from serve_bridge.instance.directory_claim import claim_directory
    for number in range(200):
        with claim_directory(sys.argv[1], str(number)) as claim:
            (claim.directory / "controller.sock").touch()
            (claim.directory / "instance.json").touch()
            assert len(list(claim.directory.iterdir())) == 3
"""


def test_starts_side_by_side_do_not_sweep_each_other() -> None:
    """Each sweeps what the others have left, and nothing that is in use."""
    with ThreadPoolExecutor(4) as threads:
        for ended in [threads.submit(run_program, BIRTHS, name) for name in "abcd"]:
            ended.result(60)


def test_a_socket_with_a_full_backlog_is_alive() -> None:
    """Its process is busy."""
    instance = made()
    with bind_unix(instance.controller.unix) as sock, contextlib.ExitStack() as waiting:
        sock.listen(0)
        for _ in range(8):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(instance.controller.unix)
        assert is_alive(instance)


@pytest.mark.parametrize("kind", ["link", "FIFO", "socket", "directory"])
def test_only_a_regular_file_is_read(kind: str) -> None:
    """Nothing is followed, and nothing waited for."""
    instance = made()
    instances.write(instance)
    address = base_directory() / "odd.json"
    with contextlib.ExitStack() as stack:
        if kind == "link":
            address.symlink_to(instance.address)
        elif kind == "FIFO":
            os.mkfifo(address, 0o600)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(address))
        else:
            address.mkdir()
        with pytest.raises(ConfigError, match=r"odd\.json"):
            instances.find(str(address), "main")


def test_a_process_that_has_joined_needs_no_file() -> None:
    """A handle that arrives there does not look at the address it came with."""
    instance = made().only(Role.PYTHON)
    membership.join(instance)
    try:
        client = Client(link_at(instance.generation, "/of/another/machine/instance.json"))
        assert (client.name, client.generation) == ("main", instance.generation)
        client.close()
    finally:
        membership.leave(instance.generation)


@pytest.mark.parametrize("variable", ["/proc/nowhere", "/dev/null/nowhere"])
def test_a_node_without_a_login_uses_its_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """XDG_RUNTIME_DIR names a directory that nobody makes there; what is made is this user's alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", variable)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = directory_here("main-g1")
    assert found == tmp_path / f"serve_bridge-{os.geteuid()}" / "main-g1"
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
