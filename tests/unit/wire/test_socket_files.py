"""The sockets that killed processes have left in the directory of their instance."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from serve_bridge.wire.socket_files import bind_unix, remove_dead_sockets, socket_file


@pytest.mark.parametrize(
    ("listens", "age_s", "stays"),
    [(False, 3600, False), (True, 3600, True), (False, 0, True)],
    ids=["dead", "alive", "young"],
)
def test_only_an_old_socket_without_a_listener_is_removed(
    tmp_path: Path, listens: bool, age_s: float, stays: bool
) -> None:
    """A process that has just bound its socket does not listen yet."""
    path = socket_file(tmp_path / "s", "r-1")
    bound = bind_unix(str(path))
    if listens:
        bound.listen(0)
    then = time.time() - age_s
    os.utime(path, (then, then))
    remove_dead_sockets(tmp_path / "s")
    assert path.exists() is stays
    bound.close()


def test_a_full_queue_is_alive(tmp_path: Path) -> None:
    """The listener is busy."""
    path = socket_file(tmp_path / "s", "r-1")
    with bind_unix(str(path)) as bound:
        bound.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(str(path))
        os.utime(path, (0, 0))
        remove_dead_sockets(tmp_path / "s")
        assert path.exists()
        for each in waiting:
            each.close()


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    """The lock and the file of the instance are no sockets."""
    for name in ("lock", "instance.json"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    remove_dead_sockets(tmp_path)
    remove_dead_sockets(tmp_path / "nowhere")
    assert sorted(os.listdir(tmp_path)) == ["instance.json", "lock"]
