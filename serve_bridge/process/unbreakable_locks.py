"""A condition and an event for callers that an exception may interrupt at any line.

The time limit of a task queue raises in the middle of any function. In `threading.Condition.__enter__` it leaves the
lock of the condition locked. A loop that needs this lock to wake the caller would then hang for ever.
"""

from __future__ import annotations

import threading
from operator import attrgetter


class UnbreakableCondition(threading.Condition):
    """A condition whose `with` block begins and ends by functions in C, so no exception leaves its lock locked."""

    # Properties, because `with` looks both up on the class.
    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


class UnbreakableEvent(threading.Event):
    """An event with such a condition."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = UnbreakableCondition(threading.Lock())
