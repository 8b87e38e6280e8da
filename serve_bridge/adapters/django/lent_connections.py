"""The connections of a running `TestCase`, lent to backends that run in this process.

Rule 1: outside of tests nothing is lent. A `TestCase` keeps what it writes in a transaction that it rolls back, which
        no other connection sees; Django's live server is lent a connection for the same reason.
Rule 2: lender and borrower take turns: the lender waits for the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

_lock = threading.Lock()
_lent: dict[str, Any] = {}


def lend() -> None:
    """Lend this thread's connections that are inside a test's transaction; take back those that are not any more."""
    with _lock:
        for alias, connection in list(_lent.items()):
            if not _is_in_test(connection):
                del _lent[alias]
                connection.dec_thread_sharing()
        for connection in connections.all(initialized_only=True):
            if connection.alias not in _lent and _is_in_test(connection):
                connection.inc_thread_sharing()
                _lent[connection.alias] = connection


async def alend() -> None:
    """Same as `lend`, of the threads in which an asynchronous test has its connections: the loop's, and the ORM's."""
    lend()
    await sync_to_async(lend)()


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
