"""Each test notes the threads that its killed processes have left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support.abandoned_threads import ABANDONED


@pytest.fixture(autouse=True)
def abandoned_threads() -> Iterator[None]:
    """Tell the check for left threads which ones belong to killed processes."""
    before = set(threading.enumerate())
    yield
    ABANDONED.update(set(threading.enumerate()) - before)
