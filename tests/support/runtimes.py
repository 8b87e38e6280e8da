"""Which tests of the fixture `runtime` run on Ray: all but for the marked ones, and in a quick run a sample.

A test's table is what it is parametrized with beside the runtime. On the local runtime, each row runs in each run.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import pytest

from tests.support.effort import QUICK, SEED

LOCAL_ONLY: Final = pytest.mark.local_only
"""The tests hold for both runtimes, and a test elsewhere shows it on Ray."""
RAY_ONCE: Final = pytest.mark.ray_once
"""One row of the table is enough on Ray: the rows are about one replica, which is the same on both runtimes."""

SAMPLED: Final = 3
"""A quick run takes one in so many tests to Ray, and of each one row."""


def surplus(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the tests on Ray that this run leaves out."""
    seen: set[str] = set()
    found = set()
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or callspec.params.get("runtime") != "ray":
            continue
        test = item.nodeid.partition("[")[0]
        once = QUICK or item.get_closest_marker("ray_once")
        if item.get_closest_marker("local_only") or (once and test in seen) or (QUICK and not _is_sampled(test)):
            found.add(item)
        seen.add(test)
    return found


def _is_sampled(test: str) -> bool:
    return crc32(f"{SEED} {test}".encode()) % SAMPLED == 0
