"""How many bytes one server holds for all its clients, and what it no longer takes when they are many.

The idea is that of Envoy's overload manager and of the accounts of its buffer factory: every holder has a share, and
marks on the sum say what is given up next.

Rule 1: O(1), and nothing for who holds nothing: a request without a body whose answer leaves at once has no share.
Rule 2: the body of a request counts from its head on, as the most of it that can be here at once. So whatever is let in
finds room, and nobody who has begun must stop, which could hold up those for whose end all others wait.
Rule 3: who takes a share gives it back, however it ends; with no one under way the sum is 0.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["Buffers", "Share"]

MOST_KEPT: Final = 0.5
"""At this share of the limit no more is kept for slow clients; their requests hold slots of backends then."""

NO_BODIES: Final = 0.75
NO_KEEP_ALIVE: Final = 0.9
"""At these shares of the limit no more requests with a body are taken, and no connection is kept open idle.

At the limit itself no more requests are taken. What is between the first and the last is left to answers.
"""


class Buffers:
    """The bytes that one server holds for its clients, and the marks on them.

    Attributes:
        held: Bytes in all shares.
        limit: Bytes from which on no request is taken.
    """

    __slots__ = ("_bodies", "_keep_alive", "_kept", "_logger", "_refused", "held", "limit")

    def __init__(self, limit: int, logger: logging.Logger) -> None:
        self.limit = limit
        self.held = 0
        self._kept = int(limit * MOST_KEPT)
        self._bodies = int(limit * NO_BODIES)
        self._keep_alive = int(limit * NO_KEEP_ALIVE)
        self._logger = logger
        self._refused = 0

    @property
    def take_bodies(self) -> bool:
        """Whether a request with a body is taken."""
        return self.held < self._bodies

    @property
    def keep_alive(self) -> bool:
        """Whether connections may wait for their next request."""
        return self.held < self._keep_alive

    @property
    def full(self) -> bool:
        """Whether no request is taken."""
        return self.held >= self.limit

    def take(self, size: int) -> bool:
        """Keep *size* bytes so that a slow client holds no slot, if half of the limit has room; return whether it has.

        The other half is left for requests that must be let in.
        """
        if self.held + size > self._kept:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Keep *size* bytes less."""
        self.held -= size

    def refused(self) -> None:
        """Count a request that was refused for want of room; the first of an episode is logged, for all."""
        if not self._refused:
            self._logger.warning(
                "requests are refused with 503: %d bytes are held for clients, %d are allowed", self.held, self.limit
            )
        self._refused += 1

    def settle(self) -> None:
        """End an episode in which requests were refused, if there is room again."""
        if self._refused and self.take_bodies:
            self._logger.info("there is room again, %d requests were refused for want of it", self._refused)
            self._refused = 0


class Share:
    """What one holder has of the `Buffers`.

    Attributes:
        held: Bytes.
    """

    __slots__ = ("_buffers", "held")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self.held = 0

    def add(self, count: int) -> None:
        """Hold *count* bytes more, or fewer if it is negative."""
        self.held += count
        self._buffers.held += count

    def set(self, count: int) -> None:
        """Hold *count* bytes from now on."""
        self.add(count - self.held)

    def give_back(self) -> None:
        """Hold nothing any more; twice is once."""
        self.set(0)
