"""The file by which an instance is found."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_bridge import instance as instances
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance import Instance
from serve_bridge.messages import ReplicaAddress
from serve_bridge.wire.auth import Key
from serve_bridge.wire.sockets import bind_unix


@pytest.fixture(autouse=True)
def _runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(instances.ADDRESS_VARIABLE, raising=False)
    with tempfile.TemporaryDirectory(prefix="sb-") as directory:  # short: sockets are in it
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield


def made(name: str = "main") -> Instance:
    """Return an instance with its directory."""
    generation = instances.new_generation()
    directory = instances.make_directory(name, generation)
    controller = ReplicaAddress("controller", str(directory / "controller.sock"))
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
    instances.make_directory("main", "g1")
    instances.base_directory().chmod(0o755)
    with pytest.raises(OSError, match="chmod 700"):
        instances.make_directory("main", "g2")


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """It could lead anywhere."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    instances.base_directory().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="remove it"):
        instances.make_directory("main", "g1")


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
    assert list(instances.base_directory().iterdir()) == []


def test_removing_an_instance_leaves_its_successors_file() -> None:
    """The name belongs to another one by now."""
    old, new = made(), made()
    instances.write(old)
    instances.write(new)
    instances.remove(old)
    assert instances.find(None, "main") == new


def test_what_a_killed_instance_left_is_swept_by_the_next() -> None:
    """Its sockets lie there, and nobody answers."""
    left = instances.make_directory("killed", "g1")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left / "controller.sock"))
    instances.make_directory("next", "g2")
    assert not left.exists()


def test_an_instance_of_which_anything_answers_is_not_swept() -> None:
    """Its controller may be on its way back."""
    alive = instances.make_directory("alive", "g1")
    with socket.socket(socket.AF_UNIX) as replica:
        replica.bind(str(alive / "r1.sock"))
        replica.listen()
        instances.make_directory("next", "g2")
        assert alive.exists()
