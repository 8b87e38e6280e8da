"""What one process knows of an instance, whichever of its loops and clients has learnt it.

Rule 1: a process that was told of a change routes by a table that has it: its links wait for that version.
Rule 2: all calls of a process wait for an absent controller together. Once that was in vain, no call waits again until
    a routing table has come; then waiting starts afresh.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref

from serve_bridge.wire.address import SocketAddress


class KnownInstance:
    """What this process knows of one instance; any thread may use it.

    Attributes:
        version: The newest routing table that this process has been told of.
        given_up: Whether calls have waited for the controller in vain, and no table has come since.
        failure: Why they did, as a sentence.
        controller: Where the controller was found last; None: where the instance's file says.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._gives_up_at: float | None = None
        self.version = 0
        self.controller: SocketAddress | None = None
        self.given_up = False
        self.failure = ""

    def learn(self, version: int) -> None:
        """Note that table *version* was published."""
        with self._lock:
            self.version = max(self.version, version)

    def begin_wait(self, most_s: float) -> float:
        """Begin to wait for a table; return the seconds that are left for that.

        They are *most_s* for the first call that waits, and what is left of them for the others.
        """
        now = time.monotonic()
        with self._lock:
            self._waiting += 1
            if self._gives_up_at is None:
                self._gives_up_at = now + most_s
            return self._gives_up_at - now

    def end_wait(self, failure: str = "") -> None:
        """End what `begin_wait` began; *failure* says why the time was not enough, if it was not."""
        with self._lock:
            self._waiting -= 1
            if failure:
                self.given_up, self.failure = True, failure
            elif not self._waiting and not self.given_up:
                self._gives_up_at = None

    def table_came(self) -> None:
        """Note that the controller has sent a table."""
        if self._gives_up_at is not None:
            with self._lock:
                self._gives_up_at, self.given_up = None, False


_lock = threading.Lock()
_known: weakref.WeakValueDictionary[str, KnownInstance] = weakref.WeakValueDictionary()
_process = ""


def known_instance(generation: str) -> KnownInstance:
    """Return what this process knows of the instance *generation*; all that use it at a time share it."""
    with _lock:
        known = _known.get(generation)
        if known is None:
            known = _known[generation] = KnownInstance()
        return known


def process_id() -> str:
    """Return a name that no other process has, on any machine."""
    return _process


def _start_afresh() -> None:
    """Know nothing: in a new process, and after a fork, whose child makes links of its own."""
    global _lock, _known, _process
    _lock, _known, _process = threading.Lock(), weakref.WeakValueDictionary(), secrets.token_hex(8)


_start_afresh()
os.register_at_fork(after_in_child=_start_afresh)
