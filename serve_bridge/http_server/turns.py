"""The budget for received bytes in one turn of the event loop.

A client chooses how many frames or chunks one read holds. Thousands of them take longer than other clients can wait. So
each connection works in steps, and all steps of one turn share a budget. The other connections wait for the next turn.

Rule 1: a connection reads no bytes while it waits for its turn.
Rule 2: the queue is FIFO, so every waiting connection makes progress.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Turns"]

TURN_COST: Final = 256 * 1024
"""Budget of one turn, about half a millisecond of work. A byte costs 1. Frames and chunks have a cost beside their
bytes."""


class Turns:
    """The budget of one turn, and a queue of connections for the next turns.

    Attributes:
        left: The rest of the budget. The last step of a turn may overdraw it.
    """

    __slots__ = ("_begun", "_waiting", "left")

    def __init__(self) -> None:
        self.left: int = TURN_COST
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = False

    @property
    def free(self) -> bool:
        """Whether a connection may work now, without a place in the queue."""
        return self.left > 0 and not self._waiting

    def spend(self, cost: int) -> None:
        """Take *cost* from the budget of this turn."""
        self.left -= cost
        self._follow()

    def wait(self, work: Callable[[], None]) -> None:
        """Call *work* in a later turn. *work* makes at least one step, and calls `wait` again if it has more to do."""
        self._waiting.append(work)
        self._follow()

    def _follow(self) -> None:
        """Schedule another turn."""
        if not self._begun:
            self._begun = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self.left = TURN_COST
        self._begun = False
        waiting = self._waiting
        try:
            for _ in range(len(waiting)):
                if self.left <= 0:
                    break
                waiting.popleft()()
        finally:  # if the work of one connection fails, the others still get their turn
            if waiting:
                self._follow()
