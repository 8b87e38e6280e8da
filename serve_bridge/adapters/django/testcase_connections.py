"""The connections of a running `TestCase`, lent to backends that run in this process.

Rule 1: outside of tests nothing is lent. A `TestCase` keeps what it writes in a transaction that it rolls back, which
        no other connection sees; Django's live server is lent a connection for the same reason.
Rule 2: lender and borrower take turns: the lender waits for the answer.
Rule 3: the thread that has a connection does not matter. A test on an event loop has its connections in one thread, its
        asynchronous ORM in another, and its synchronous views in a third one perhaps.
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


connection_created.connect(_note)  # `apps` imports this module, so that no connection is older


def lend() -> None:
    """Lend the connections that are inside a test's transaction; take back those that are not any more."""
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
    """Let this thread use what is lent for a while."""
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
    """Let this thread use what is lent from now on, and return it by its alias."""
    taken = dict(_lent)
    _use(taken)
    return taken


def _use(given: Mapping[str, Any]) -> None:
    for alias, connection in given.items():
        connections[alias] = connection


def _is_in_test(connection: Any) -> bool:
    # What `TestCase` marks its transactions with, since Django 4.2.
    return any(getattr(block, "_from_testcase", False) for block in getattr(connection, "atomic_blocks", ()))
