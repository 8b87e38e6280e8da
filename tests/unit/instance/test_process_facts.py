"""The facts that both sides exchange for `serve-bridge doctor`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_bridge.instance.process_facts import EngineFacts, memory_bytes, own_facts, resident_bytes

MEMINFO = "MemTotal:        2048 kB\nMemFree: 5 kB\n"


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"proc/meminfo": MEMINFO}, 2 << 20),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "max\n"}, 2 << 20),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "99999999999\n"}, 2 << 20),
        ({}, None),
    ],
)
def test_the_lower_limit_of_machine_and_container_counts(tmp_path: Path, files: dict[str, str], size: int) -> None:
    """Both versions of cgroups are read."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_bytes(tmp_path) == size


def test_a_process_has_memory_until_it_ends(tmp_path: Path) -> None:
    """An ended process has no directory below /proc."""
    assert resident_bytes(Path(f"/proc/{os.getpid()}")) > 1 << 20
    assert resident_bytes(tmp_path / "absent") == 0


def test_facts_of_other_versions_can_be_read() -> None:
    """Unknown ones are left out, and missing ones have their defaults."""
    facts = EngineFacts(**own_facts(), token_mode="token")
    assert EngineFacts.from_dict({**facts.as_dict(), "later": 1}) == facts
    assert EngineFacts.from_dict({"python": "3.11"}) == EngineFacts(python="3.11")
