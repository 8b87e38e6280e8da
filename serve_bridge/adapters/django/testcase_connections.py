"""The database connections of a running `TestCase`, lent to backends in the same process.

A `TestCase` writes in a transaction and rolls it back, so only its own connection sees the data. Django lends such a
connection to its live server for the same reason.

Rule 1: outside of tests, no connection is lent.
Rule 2: the test does not use a connection while a backend does, because it waits for the answer.
Rule 3: connections of all threads are lent. A test on an event loop may have connections in one thread, its
        asynchronous ORM in a second, and its synchronous views in a third.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from django.db import connections
from django.db.backends.signals import connection_created

_lock = threading.Lock()
_known: WeakSet[Any] = WeakSet()
_lent: dict[str, Any] = {}


def _note(*, connection: Any, **_: Any) -> None:
    with _lock:
        _known.add(connection)


connection_created.connect(_note)  # `apps` imports this module before the first connection is made


def lend() -> None:
    """Lend the connections inside a test's transaction, and take back those whose transaction has ended."""
    with _lock:
        for alias, connection in list(_lent.items()):
            if not _is_in_test(connection):
                del _lent[alias]
                connection.dec_thread_sharing()
        for connection in [*_known, *connections.all(initialized_only=True)]:
            if connection.alias not in _lent and _is_in_test(connection):
                connection.inc_thread_sharing()
                _lent[connection.alias] = connection


@contextmanager
def borrowed() -> Iterator[None]:
    """Let this thread use the lent connections inside this context."""
    if not _lent:
        yield
        return
    own = {each.alias: each for each in connections.all(initialized_only=True)}
    taken = take()
    try:
        yield
    finally:
        for alias in taken:
            del connections[alias]
        _use(own)


def take() -> Mapping[str, Any]:
    """Let this thread use the lent connections from now on, and return them by alias."""
    taken = dict(_lent)
    _use(taken)
    return taken


def _use(given: Mapping[str, Any]) -> None:
    for alias, connection in given.items():
        connections[alias] = connection


def _is_in_test(connection: Any) -> bool:
    # Since Django 4.2, `TestCase` marks its transactions with this attribute.
    return any(getattr(block, "_from_testcase", False) for block in getattr(connection, "atomic_blocks", ()))
