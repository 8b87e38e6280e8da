"""The files with the secrets of an instance's name, and with the keys of its roles."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from serve_bridge.config.network_options import NetworkOptions
from serve_bridge.errors import ConfigError
from serve_bridge.instance.instance_file import find
from serve_bridge.instance.key_files import (
    alone_with_keys,
    forget_keys,
    kept_key,
    key_of_start,
    key_path,
    read_key_file,
    read_secrets,
    role_file,
    secret_file,
)
from serve_bridge.instance.private_file import UnusableFile, write_private
from serve_bridge.instance.state_directory import state_directory
from serve_bridge.wire.keys import OF_FILES, Key, Role


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_secret_of_a_name_is_the_same_at_each_start() -> None:
    """Another name has another secret."""
    first, made = kept_key("main", None)
    again, made_again = kept_key("main", None)
    other, _ = kept_key("other", None)
    assert (again.secret, made_again) == (first.secret, [])
    assert [path.name for path in made] == ["main", "secret", "main.forward.key", "main.call.key", "main.manage.key"]
    assert other.secret != first.secret


def test_the_state_directory_follows_the_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_STATE_HOME, or the home directory."""
    assert state_directory("main") == tmp_path / "state" / "serve_bridge" / "main"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_directory("main") == Path.home() / ".local" / "state" / "serve_bridge" / "main"


def test_only_the_user_can_read_the_files() -> None:
    """Nor can others list their directory."""
    _, (directory, *files) = kept_key("main", None)
    assert directory == state_directory("main")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("role", OF_FILES)
def test_a_key_file_has_the_key_of_its_role_and_of_weaker_ones(role: Role) -> None:
    """No stronger key can be derived from it."""
    key, _ = kept_key("main", None)
    name, found = read_key_file(role_file(state_directory("main"), "main", role))
    assert (name, found.id) == (role.name.lower(), key.id)
    for each in OF_FILES:
        assert found.holds(each) == (each <= role)
        assert not found.holds(each) or found.of(each) == key.of(each)
    assert not any(found.holds(each) for each in (Role.EDGE, Role.PYTHON, Role.CONTROLLER))


def test_a_given_key_file_has_the_key_files_of_the_roles_beside_it(tmp_path: Path) -> None:
    """The state directory stays empty."""
    kept_key("main", str(tmp_path / "my.secret"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "main.call.key",
        "main.forward.key",
        "main.manage.key",
        "my.secret",
    ]


@pytest.mark.parametrize("read", [read_secrets, read_key_file])
def test_a_file_that_others_can_read_is_refused(read: Callable[[Path], object]) -> None:
    """The error has its path and the remedy."""
    kept_key("main", None)
    path = secret_file("main", None)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=f"{path} holds a key .*chmod 600 {path}"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "is not a key file"),
        (b"\xff\xfe", "is not ASCII text"),
        (b"serve-bridge-key-2 forward 00 00\n", "has the format serve-bridge-key-2, and this version reads"),
        (b"serve-bridge-key-1 forward 00\n", "does not have the form .*; copy it again"),
        (b"serve-bridge-key-1 edge 00000000000000 " + b"00" * 32, "its role or its key is malformed"),
        (b"serve-bridge-key-1 forward 00000000000000 0000", "its role or its key is malformed"),
    ],
)
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """The error has its path, and shows nothing of its content."""
    path = tmp_path / "a.key"
    write_private(path, content)
    with pytest.raises(UnusableFile, match=message) as caught:
        read_key_file(path)
    assert str(path) in str(caught.value)
    assert "hello" not in str(caught.value)


def test_a_key_file_of_a_role_is_not_a_secret() -> None:
    """An instance cannot start with it."""
    kept_key("main", None)
    with pytest.raises(UnusableFile, match="does not hold the secret"):
        read_secrets(role_file(state_directory("main"), "main", Role.MANAGE))


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    """With the place from which to copy it."""
    with pytest.raises(UnusableFile, match=f"there is no key file {tmp_path / 'a.key'}; copy it from"):
        read_key_file(tmp_path / "a.key")


KEY = "serve-bridge-key-1 forward 000000000000 " + "5a" * 32


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "set SERVE_BRIDGE_KEY_FILE"),
        ("a.key", "absolute path"),
        ("/a.key\n", r"'/a.key\\n' must be .* without a line feed"),
        ("/a.key ", "'/a.key ' must be .* or a space"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    """Before anything is connected."""
    monkeypatch.setenv("SERVE_BRIDGE_KEY_FILE", value)
    with pytest.raises(ConfigError, match=message):
        key_path()


@pytest.mark.parametrize(
    "use",
    [
        lambda: NetworkOptions(listen="127.0.0.1:0", key_file=KEY),
        lambda: secret_file("main", KEY),
        lambda: find(KEY, "main"),
        lambda: find(f"serve-bridge://:{'5A' * 32}@127.0.0.1:1/main", "main"),
        lambda: key_path(),
    ],
)
def test_a_key_in_place_of_a_path_is_not_shown(monkeypatch: pytest.MonkeyPatch, use: Callable[[], object]) -> None:
    """The message says what belongs there."""
    monkeypatch.setenv("SERVE_BRIDGE_KEY_FILE", KEY)
    with pytest.raises(ConfigError, match=r"contains a key, .* it must be .*; leave the key in a file") as caught:
        use()
    assert "5a5a" not in str(caught.value).lower()


@pytest.mark.parametrize("role", OF_FILES)
def test_the_secret_is_not_kept_where_a_role_has_its_key(tmp_path: Path, role: Role) -> None:
    """The key of the role would overwrite it, and the next start would be refused."""
    path = role_file(tmp_path, "main", role)
    with pytest.raises(ConfigError, match=f"{path}' is the place of the key file of a role, .*{tmp_path / 'secret'}"):
        kept_key("main", str(path))
    assert not list(tmp_path.iterdir())


def test_blank_lines_of_a_key_file_have_no_meaning(tmp_path: Path) -> None:
    """An editor may add them, and ends of lines of Windows."""
    key, _ = kept_key("main", str(tmp_path / "secret"))
    path = tmp_path / "secret"
    write_private(path, b"\r\n" + path.read_bytes().replace(b"\n", b"\r\n") + b"\n")
    found = read_secrets(path)
    assert found is not None
    assert found.id == key.id


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """With the way out."""
    (tmp_path / "state").touch()
    with pytest.raises(ConfigError, match=f"{state_directory('main')}: .*; set XDG_STATE_HOME"):
        kept_key("main", None)
    with pytest.raises(ConfigError, match="give another key_file"):
        kept_key("main", str(tmp_path / "nowhere" / "secret"))


def test_a_read_only_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses the removal of files that were never made too."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(ConfigError, match="Read-only file system; give another directory with state="):
        kept_key("main", None, str(tmp_path / "disk" / "main"))


def test_a_failed_start_leaves_no_keys() -> None:
    """It has changed nothing."""
    with pytest.raises(OSError, match="taken"), key_of_start("main", NetworkOptions(listen="a:1"), kept=False):
        raise OSError("taken")
    assert not state_directory("main").exists()


def _key_of_a_start() -> bytes:
    """Start an instance that does not fail; return the secret of its key."""
    with key_of_start("main", NetworkOptions(listen="a:1"), kept=False) as (key, _):
        return key.secret


def test_a_start_waits_for_another_start_with_the_same_keys() -> None:
    """Otherwise the end of the failed one would remove the keys of the other one."""
    other: list[Future[bytes]] = []
    with ThreadPoolExecutor(1) as pool:

        def fail_beside_another() -> None:
            with key_of_start("main", NetworkOptions(listen="a:1"), kept=False):
                other.append(pool.submit(_key_of_a_start))
                assert not wait(other, timeout=0.2).done
                raise OSError("taken")

        with pytest.raises(OSError, match="taken"):
            fail_beside_another()
        secret = other[0].result(30)
    kept = read_secrets(secret_file("main", None))
    assert kept is not None
    assert kept.secret == secret


def test_a_wait_for_another_start_has_an_end(tmp_path: Path) -> None:
    """The other process may be stopped, such as by Ctrl-Z."""
    with (
        alone_with_keys(tmp_path),
        pytest.raises(ConfigError, match=f"another process has used the keys in {tmp_path} for 0 s, .* nothing was"),
        alone_with_keys(tmp_path, wait_s=0),
    ):
        pass
    with alone_with_keys(tmp_path, wait_s=0) as made:
        assert made == []


def test_a_failed_start_leaves_the_directory_of_a_key_file(tmp_path: Path) -> None:
    """The user has made it, even if it is empty and the file has the name of the one in a state directory."""
    network = NetworkOptions(key_file=str(tmp_path / "keys" / "secret"))
    (tmp_path / "keys").mkdir()
    with pytest.raises(OSError, match="taken"), key_of_start("main", network, kept=False):
        raise OSError("taken")
    assert list((tmp_path / "keys").iterdir()) == []


def test_a_failed_start_keeps_the_keys_of_earlier_ones() -> None:
    """Web hosts have copies of them."""
    key, _ = kept_key("main", None)
    with pytest.raises(OSError, match="taken"), key_of_start("main", NetworkOptions(listen="a:1"), kept=False):
        raise OSError("taken")
    assert kept_key("main", None)[0].secret == key.secret


def test_an_instance_of_one_process_keeps_no_keys() -> None:
    """Nothing outlives it."""
    with key_of_start("main", NetworkOptions(), kept=False) as (_, kept):
        assert not kept
    assert not state_directory("main").exists()


def test_keys_are_forgotten_by_their_own_instance_only() -> None:
    """A later start may have made others."""
    key, _ = kept_key("main", None)
    forget_keys("main", Key().id, None)
    assert kept_key("main", None)[0].secret == key.secret
    forget_keys("main", key.id, None)
    assert not state_directory("main").exists()
