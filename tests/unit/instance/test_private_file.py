"""The one writer of files that must outlive a crash, a full disk and a loss of power."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.network_options import NetworkOptions
from serve_bridge.errors import ConfigError
from serve_bridge.instance.key_files import kept_key, key_of_start, read_secrets, write_secrets
from serve_bridge.instance.private_file import kept_directory, write_private
from serve_bridge.instance.state_directory import state_directory
from serve_bridge.specs import BackendSpec
from serve_bridge.state.records import Recorder, digest_of
from serve_bridge.state.state_files import StateFiles
from serve_bridge.wire.keys import Key
from serve_bridge.wire.opaque import Opaque
from tests.support.disk import Step, ended_at, files_of_at_most, noted_steps

OLD, NEW = b"old\n", b"what is new\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a directory of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "files").mkdir()
    return tmp_path / "files" / "secret"


def test_a_file_is_whole_on_the_disk_before_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its directory after that, so a loss of power cannot take the name either."""
    steps = noted_steps(monkeypatch)
    write_private(path, NEW)
    (draft, *rest) = steps
    assert (draft.what, draft.size) == ("flush", len(NEW))
    assert re.fullmatch(r"\.secret\.\w{8}\.new", draft.name)
    assert rest == [Step("name", "secret", 0), Step("flush", "files", 0)]


def test_a_new_directory_is_on_the_disk_before_files_in_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing parent too, from the outermost on."""
    steps = noted_steps(monkeypatch)
    kept_directory(path.parent / "a" / "b")
    assert steps == [Step("flush", "files", 0), Step("flush", "a", 0)]
    kept_directory(path.parent / "a" / "b")
    assert len(steps) == 2


def start_with_keys(path: Path) -> None:
    """Make the secret of a name, with the key files of its roles."""
    with key_of_start("main", NetworkOptions(listen="127.0.0.1:1"), kept=False):
        pass


def rotate(path: Path) -> None:
    """Replace a secret and its key files."""
    write_secrets(path, "main", Key())


def keep_state(path: Path) -> None:
    """Write a state twice, so the first one becomes the previous one; the second one has code."""
    files = StateFiles(path.parent / "state")
    files.lock()
    backend = BackendSpec("b", CODE, is_async=False, config=BackendConfig(), actor_options=Opaque({}), revision=1)
    for backends in ({}, {"b": backend}):
        record, blobs = Recorder("main").record(backends, {}, {})
        files.write(record, blobs)
    files.close()


CODE = b"code"
LASTING = {
    start_with_keys: {"secret", "main.forward.key", "main.call.key", "main.manage.key"},
    rotate: {"secret", "main.forward.key", "main.call.key", "main.manage.key"},
    keep_state: {"state.json", "previous.json", f"{digest_of(CODE)}.bin"},
}


@pytest.mark.parametrize("work", LASTING, ids=lambda work: work.__name__)
def test_every_lasting_file_goes_through_this_writer(
    path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], None]
) -> None:
    """Each rename stands between a flush of its draft and a flush of its directory."""
    steps = noted_steps(monkeypatch)
    work(path)
    assert {each.name for each in steps if each.what == "name"} == LASTING[work]
    for before, step, after in zip(steps, steps[1:], steps[2:], strict=False):
        if step.what == "name":
            assert (before.what, after.what) == ("flush", "flush")
            assert before.name.startswith(f".{step.name}.")
            assert before.size > 0
    assert steps[-1].what == "flush"


@pytest.mark.parametrize("size", [0, 3])
def test_a_full_disk_leaves_the_old_file(path: Path, size: int) -> None:
    """And no draft."""
    write_private(path, OLD)
    with pytest.raises(OSError, match="File too large"), files_of_at_most(size):
        write_private(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["secret"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(5, "I/O error"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_interrupted_write_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failure: BaseException
) -> None:
    """And no draft."""

    def failing(*_: object) -> None:
        raise failure

    write_private(path, OLD)
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(type(failure)):
        write_private(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["secret"]


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(path: Path) -> None:
    """At any step; and the next write succeeds."""
    write_private(path, OLD)
    for step in itertools.count():
        if not ended_at(step, lambda: write_private(path, NEW)):
            break
        assert path.read_bytes() in (OLD, NEW)
        write_private(path, OLD)
    assert step >= 4
    assert path.read_bytes() == NEW


def test_only_the_user_can_read_the_file(path: Path) -> None:
    """Whatever the umask is, and whatever the mode of the old file was."""
    path.touch(mode=0o644)
    umask = os.umask(0)
    try:
        write_private(path, NEW)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_start_on_a_full_disk_leaves_no_keys(path: Path) -> None:
    """The message has the directory and the way out."""
    with (
        pytest.raises(
            ConfigError, match=f"the keys cannot be kept in {state_directory('main')}: .*; set XDG_STATE_HOME"
        ),
        files_of_at_most(10),
    ):
        kept_key("main", None)
    assert not state_directory("main").exists()


def test_a_start_that_cannot_write_a_key_file_leaves_no_secret(path: Path) -> None:
    """A directory stands where the last key file belongs."""
    (path.parent / "main.manage.key").mkdir()
    with pytest.raises(ConfigError, match=r"main\.manage.key is not a regular file"):
        kept_key("main", str(path))
    assert os.listdir(path.parent) == ["main.manage.key"]
    assert read_secrets(path) is None
