"""The deadlines of the requests of one event loop, on one timer.

They are a hashed timing wheel (Varghese and Lauck 1987, scheme 6). A timer for each request would cost more than the
choice of its replica, and nearly every request ends long before its deadline.

Rule 1: To add and to discard an item is O(1). No item expires early; an item may expire two ticks late.
Rule 2: An empty wheel stops turning.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

__all__ = ["Deadlines", "Expiring"]

TICK_S: Final = 0.01
"""Length of a tick in seconds."""
SLOTS: Final = 1024
"""Number of slots of the wheel. Each tick turns the wheel by one slot."""


class Expiring(Protocol):
    """An item with a deadline.

    Attributes:
        deadline: Loop time at which the item expires. It must not change while a wheel holds the item.
    """

    deadline: float

    def expire(self) -> None:
        """Handle the deadline; called once, after it."""
        ...


class Deadlines:
    """The deadlines of one event loop. Only the loop itself uses them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Dicts keep the order of their items, so that the same events have the same result each time.
        self._slots: list[dict[Expiring, None]] = [{} for _ in range(SLOTS)]
        self._tick = 0
        self._empty = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Expiring) -> None:
        """Let *item* expire at its deadline."""
        self._slots[int(item.deadline / TICK_S) % SLOTS][item] = None
        self._empty = 0
        if self._timer is None:
            self._tick = int(self._loop.time() / TICK_S)
            self._timer = self._loop.call_later(TICK_S, self._turn)

    def discard(self, item: Expiring) -> None:
        """Remove *item*, if the wheel holds it."""
        self._slots[int(item.deadline / TICK_S) % SLOTS].pop(item, None)

    def close(self) -> None:
        """Stop turning."""
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        now = self._loop.time()
        first, self._tick = self._tick, int(now / TICK_S)
        try:
            for tick in range(max(first, self._tick - SLOTS), self._tick):
                self._expire(self._slots[tick % SLOTS], now)
        finally:  # if an item raises, the other deadlines must still be kept
            turning = self._empty < SLOTS  # after a whole turn of empty slots, the wheel is empty
            self._timer = self._loop.call_later(TICK_S, self._turn) if turning else None

    def _expire(self, slot: dict[Expiring, None], now: float) -> None:
        self._empty = 0 if slot else self._empty + 1
        for item in [item for item in slot if item.deadline <= now]:
            del slot[item]
            item.expire()
