"""Which tests of the fixture `runtime` run on Ray: all of them in a full run, one row of each table in a quick run.

A test's table is what it is parametrized with beside the runtime. pytest-randomly decides which row comes first.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.effort import FULL

LOCAL_ONLY: Final = pytest.mark.local_only
"""The tests hold for both runtimes, and a test elsewhere shows it on Ray."""
RAY_ONCE: Final = pytest.mark.ray_once
"""One row of the table is always enough on Ray: the rows are about one replica, which is the same on both runtimes."""


def surplus(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the tests on Ray that this run leaves out."""
    tables: set[str] = set()
    found = set()
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or callspec.params.get("runtime") != "ray":
            continue
        table = item.nodeid.partition("[")[0]
        one_row = not FULL or item.get_closest_marker("ray_once")
        if item.get_closest_marker("local_only") or (one_row and table in tables):
            found.add(item)
        tables.add(table)
    return found
