"""How much of what clients have sent one server works off in one turn of its loop.

A client chooses how many frames or chunks one read holds, and thousands of them take longer than other clients can
wait. So each connection works in steps, all steps of one turn share a budget, and the rest waits in line for the next.

Rule 1: a connection whose turn has not come reads nothing more.
Rule 2: the line is FIFO, so every connection in it makes progress, however many there are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Turns"]

TURN_COST: Final = 256 * 1024
"""Budget of one turn. A byte costs 1, and what has a price beside its bytes says how much. It is about half a
millisecond of work."""


class Turns:
    """The budget of one turn, and the connections that wait for the next.

    Attributes:
        left: What is left of the budget. The last step of a turn may overdraw it.
    """

    __slots__ = ("_begun", "_waiting", "left")

    def __init__(self) -> None:
        self.left = TURN_COST
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = False

    @property
    def free(self) -> bool:
        """Whether a connection may work now, without waiting in line."""
        return self.left > 0 and not self._waiting

    def spend(self, cost: int) -> None:
        """Take *cost* from the budget of this turn."""
        self.left -= cost
        self._follow()

    def wait(self, work: Callable[[], None]) -> None:
        """Call *work* in a later turn. It makes at least one step, and waits again if it has more to do."""
        self._waiting.append(work)
        self._follow()

    def _follow(self) -> None:
        """Make sure that another turn begins."""
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
        finally:  # the work of one connection may fail, and the others still wait
            if waiting:
                self._follow()
