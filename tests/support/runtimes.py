"""Which tests run on which runtime: those of the fixture `runtime` run on both unless they are marked."""

from __future__ import annotations

from typing import Final

import pytest

LOCAL_ONLY: Final = pytest.mark.local_only
"""The tests hold for both runtimes, and a test elsewhere shows it on Ray."""
RAY_ONCE: Final = pytest.mark.ray_once
"""One row of the table is enough on Ray: the rows are about one replica, which is the same on both runtimes."""


def surplus(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the tests on Ray that the marks make superfluous."""
    tables: set[str] = set()
    found = set()
    for item in items:
        if item.get_closest_marker("ray") is None:
            continue
        table = item.nodeid.partition("[")[0]
        if item.get_closest_marker("local_only") or (item.get_closest_marker("ray_once") and table in tables):
            found.add(item)
        tables.add(table)
    return found
