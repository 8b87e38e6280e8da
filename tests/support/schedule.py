"""The order of the files of a run: slow tiers first, so that no worker is left alone with a long file at the end."""

from __future__ import annotations

from typing import Final

import pytest

_SLOWEST_FIRST: Final = ("nodes", "e2e", "faults", "ray", "behaviour", "adapters", "local", "fuzz", "unit")
_LONGEST: Final = (
    "test_demo.py",
    "test_deploy.py",
    "test_http.py",
    "test_servers.py",
    "test_examples.py",
    "test_docs.py",
)
"""Files that take longer than the others of their tier."""


def turn(item: pytest.Item) -> tuple[int, bool]:
    """Return the turn of an item's file; a stable sort by it leaves pytest-randomly the order within a tier."""
    _, tier, *_ = [*item.nodeid.split("/"), ""]  # "tests/TIER/..."
    return _SLOWEST_FIRST.index(tier) if tier in _SLOWEST_FIRST else 0, item.path.name not in _LONGEST
