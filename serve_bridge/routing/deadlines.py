"""When the requests of one event loop run out of time: one timer for all of them.

A hashed timing wheel (Varghese and Lauck 1987, scheme 6). A timer a request would cost more than finding its
replica, and nearly every request ends long before its time.

Rule 1: to add and to discard is O(1), and nothing expires early; it may expire two ticks late.
Rule 2: a wheel that holds nothing stops turning.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

__all__ = ["Deadlines", "Expiring"]

TICK_S: Final = 0.01
SLOTS: Final = 1024


class Expiring(Protocol):
    """What has a deadline.

    Attributes:
        deadline: Loop time at which it is no longer wanted; it does not change while a wheel holds it.
    """

    deadline: float

    def expire(self) -> None:
        """Called once, after the deadline."""
        ...


class Deadlines:
    """The deadlines of one event loop; touched from that loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: list[set[Expiring]] = [set() for _ in range(SLOTS)]
        self._tick = 0
        self._empty = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Expiring) -> None:
        """Let *item* expire at its deadline."""
        self._slots[int(item.deadline / TICK_S) % SLOTS].add(item)
        self._empty = 0
        if self._timer is None:
            self._tick = int(self._loop.time() / TICK_S)
            self._timer = self._loop.call_later(TICK_S, self._turn)

    def discard(self, item: Expiring) -> None:
        """Forget *item*, if it is held."""
        self._slots[int(item.deadline / TICK_S) % SLOTS].discard(item)

    def close(self) -> None:
        """Turn no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        now = self._loop.time()
        first, self._tick = self._tick, int(now / TICK_S)
        try:
            for tick in range(max(first, self._tick - SLOTS), self._tick):
                self._expire(self._slots[tick % SLOTS], now)
        finally:  # whatever an item raises, the others' time goes on
            turning = self._empty < SLOTS  # after a whole turn without any there is none
            self._timer = self._loop.call_later(TICK_S, self._turn) if turning else None

    def _expire(self, slot: set[Expiring], now: float) -> None:
        self._empty = 0 if slot else self._empty + 1
        for item in [item for item in slot if item.deadline <= now]:
            slot.discard(item)
            item.expire()
