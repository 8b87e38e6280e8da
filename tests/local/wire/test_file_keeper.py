"""The socket of a process that listens: if it vanishes, the process makes it again."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from serve_bridge.wire import file_keeper
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.directory_lock import remove_unclaimed
from serve_bridge.wire.file_keeper import FileKeeper
from serve_bridge.wire.frames import Frame
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from tests.support.waiting import reached

KEY = Key()


class Quiet:
    """A service that is asked for nothing."""

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Refuse."""
        stream.reject("not exposed")

    def load(self) -> int:
        """Return that nothing runs."""
        return 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often."""
    monkeypatch.setattr(file_keeper, "LOOK_S", 0.02)


def inode_of(path: str) -> int:
    """Return what tells a socket from another one at the same path."""
    return Path(path).lstat().st_ino


def test_a_vanished_directory_is_made_again_and_connections_stay(tmp_path: Path) -> None:
    """A new caller reaches the same process at the same address."""

    async def check() -> tuple[bool, bool]:
        listener = Listener(Quiet(), KEY, "g", "r")
        address = await listener.listen(tmp_path / "s")
        before = await dial(address, KEY, "g", Role.PYTHON)
        shutil.rmtree(tmp_path / "s")
        await reached(Path(address.unix).exists)
        after = await dial(address, KEY, "g", Role.PYTHON)
        found = before.closed, after.closed
        for connection in (before, after):
            connection.close()
        listener.close()
        return found

    assert asyncio.run(check()) == (False, False)
    assert list((tmp_path / "s").glob("*.sock")) == []


def test_a_vanished_lock_is_taken_again(tmp_path: Path) -> None:
    """Otherwise a later start would remove the directory."""

    async def check() -> None:
        listener = Listener(Quiet(), KEY, "g", "r")
        address = await listener.listen(tmp_path / "s")
        inode = inode_of(address.unix)
        (tmp_path / "s" / "lock").unlink()
        await reached((tmp_path / "s" / "lock").exists)
        remove_unclaimed(tmp_path / "s")
        assert inode_of(address.unix) == inode  # the socket was there, so it stayed
        listener.close()

    asyncio.run(check())


def test_a_directory_of_another_process_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The process says why once, and listens again when the directory has gone."""

    async def check() -> None:
        listener = Listener(Quiet(), KEY, "g", "r")
        address = await listener.listen(tmp_path / "s")
        shutil.rmtree(tmp_path / "s")
        (tmp_path / "s").mkdir(mode=0o755)
        (tmp_path / "s").chmod(0o755)
        await reached(lambda: "is open to other users" in caplog.text)
        assert list((tmp_path / "s").iterdir()) == []
        (tmp_path / "s").rmdir()
        await reached(Path(address.unix).exists)
        listener.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(check())
    assert caplog.text.count("cannot be made again yet") == 1


def test_a_process_that_ends_leaves_its_files_alone(tmp_path: Path) -> None:
    """The instance removes them then."""

    async def check() -> None:
        listener = Listener(Quiet(), KEY, "g", "r")
        await listener.listen(tmp_path / "s")
        listener.stop_keeping()
        shutil.rmtree(tmp_path / "s")
        await asyncio.sleep(file_keeper.LOOK_S * 10)
        listener.close()

    asyncio.run(check())
    assert not (tmp_path / "s").exists()


def kept(looks: list[bool], failures: list[str]) -> list[int]:
    """Keep files that are missing at some *looks*; return the numbers of the looks after which they were made.

    The makes fail with *failures*, one after another.
    """
    made: list[int] = []
    left, reasons = iter(looks), iter(failures)
    asked = 0

    async def make() -> None:
        made.append(asked)
        if (reason := next(reasons, None)) is not None:
            raise OSError(reason)

    def is_missing() -> bool:
        nonlocal asked
        asked += 1
        return next(left, False)

    async def run() -> None:
        keeper = FileKeeper("a file", logging.getLogger("serve_bridge.wire"), is_missing, make)
        keeper.begin()
        await reached(lambda: asked > len(looks))
        keeper.close()

    asyncio.run(run())
    return made


def test_files_are_made_again_after_two_looks_in_vain() -> None:
    """One look is not enough: an instance that ends removes its files before its processes have ended."""
    assert kept([True, False, True, False, True, True], []) == [6]


def test_each_reason_is_one_message(caplog: pytest.LogCaptureFixture) -> None:
    """A disk that stays full does not fill the log."""
    with caplog.at_level(logging.WARNING, "serve_bridge.wire"):
        assert kept([True] * 6, ["full", "full", "full", "gone"]) == [2, 3, 4, 5, 6]
    reasons = [each.getMessage().rpartition(": ")[2] for each in caplog.records]
    assert reasons == ["full", "gone", "a file vanished, and was made again"]
