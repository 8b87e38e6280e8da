"""The knowledge of one process about an instance. All loops and clients of the process share it.

Rule 1: after a change, its caller's process routes by a table with the change: the links of the process wait for its
    version.
Rule 2: all calls of a process wait together for an absent controller. After they have waited in vain, no call waits
    again until a routing table arrives.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref

from serve_bridge.config.tls import Tls
from serve_bridge.instance.instance import Instance
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key


class KnownInstance:
    """The knowledge of this process about one instance. Any thread may use it.

    Attributes:
        version: Version of the newest known routing table.
        given_up: Whether calls have waited in vain for the controller, and no table has arrived since.
        failure: Why they waited in vain, as a sentence.
        controller: The last known address of the controller; None: the address in the instance's file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._gives_up_at: float | None = None
        self.version: int = 0
        self.controller: SocketAddress | None = None
        self._keys: dict[tuple[str, Tls | None], Key] = {}
        self.given_up: bool = False
        self.failure: str = ""

    def key_of(self, instance: Instance) -> Key:
        """Return the key of *instance* as one object, which all its users in this process share."""
        key = instance.key
        with self._lock:
            return self._keys.setdefault((key.text, key.tls), key)

    def renew_keys(self, key: Key) -> None:
        """Give the users of this process their parts of the new *key*."""
        with self._lock:
            for each in self._keys.values():
                each.replace(key.limited_to(each))

    def learn(self, version: int) -> None:
        """Note the *version* of a published table."""
        with self._lock:
            self.version = max(self.version, version)

    def begin_wait(self, most_s: float) -> float:
        """Begin to wait for a table; return the remaining seconds of the wait.

        The first call has *most_s* seconds. The calls after it share its time.
        """
        now = time.monotonic()
        with self._lock:
            self._waiting += 1
            if self._gives_up_at is None:
                self._gives_up_at = now + most_s
            return self._gives_up_at - now

    def end_wait(self, failure: str = "") -> None:
        """End the wait of `begin_wait`. *failure* says why no table arrived in time; "": a table did."""
        with self._lock:
            self._waiting -= 1
            if failure:
                self.given_up, self.failure = True, failure
            elif not self._waiting and not self.given_up:
                self._gives_up_at = None

    def table_came(self) -> None:
        """Note the arrival of a table from the controller."""
        if self._gives_up_at is not None:
            with self._lock:
                self._gives_up_at, self.given_up = None, False


_lock = threading.Lock()
_known: weakref.WeakValueDictionary[str, KnownInstance] = weakref.WeakValueDictionary()
_process = ""


def known_instance(generation: str) -> KnownInstance:
    """Return the knowledge of this process about the instance *generation*; all users at a time share it."""
    with _lock:
        known = _known.get(generation)
        if known is None:
            known = _known[generation] = KnownInstance()
        return known


def process_id() -> str:
    """Return the unique name of this process, among all machines."""
    return _process


def _start_afresh() -> None:
    """Forget everything: in a new process, and in the child of a fork, which makes its own links."""
    global _lock, _known, _process
    _lock, _known, _process = threading.Lock(), weakref.WeakValueDictionary(), secrets.token_hex(8)


_start_afresh()
os.register_at_fork(after_in_child=_start_afresh)
