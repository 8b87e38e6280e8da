"""The limit on the bytes held for all clients of one server.

Every request and connection with bytes in memory has a share. The sum of all shares has marks. At each mark the server
gives up one more thing. Envoy's overload manager and the accounts of its buffer factory work in the same way.

Rule 1: O(1). A request without a body whose answer leaves at once has no share, and costs nothing here.
Rule 2: a request's body counts from its head on, at its maximum size in memory. So an accepted request
always has room for its body. The server never pauses a body halfway: the paused requests could be the ones whose end
would free memory.
Rule 3: the holder of a share gives it back, however its request ends. Without requests, the sum is 0.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["Buffers", "Share"]

MOST_KEPT: Final = 0.5
"""Part of the limit above which the server keeps no more bytes for slow clients.

From then on, the requests of slow clients hold slots of replicas.
"""

NO_BODIES: Final = 0.75
"""Part of the limit above which the server refuses requests with a body."""
NO_KEEP_ALIVE: Final = 0.9
"""Part of the limit above which the server keeps no idle connection open.

At the limit itself, the server refuses all requests. The bytes between `NO_BODIES` and the limit are for answers.
"""


class Buffers:
    """The bytes held for all clients, and the marks on their sum.

    Attributes:
        held: Bytes in all shares.
        limit: Number of held bytes at which the server refuses all requests.
    """

    __slots__ = ("_bodies", "_keep_alive", "_kept", "_logger", "_refused", "held", "limit")

    def __init__(self, limit: int, logger: logging.Logger) -> None:
        self.limit: int = limit
        self.held: int = 0
        self._kept = int(limit * MOST_KEPT)
        self._bodies = int(limit * NO_BODIES)
        self._keep_alive = int(limit * NO_KEEP_ALIVE)
        self._logger = logger
        self._refused = 0

    @property
    def take_bodies(self) -> bool:
        """Whether the server accepts requests with a body."""
        return self.held < self._bodies

    @property
    def keep_alive(self) -> bool:
        """Whether idle connections stay open."""
        return self.held < self._keep_alive

    @property
    def full(self) -> bool:
        """Whether the server refuses all requests."""
        return self.held >= self.limit

    def take(self, size: int) -> bool:
        """Keep *size* bytes for a slow client, to free the slot of its request in a replica.

        The bytes must fit into half of the limit. The other half is for bodies and answers of other requests.

        Returns:
            Whether the bytes fit. If not, they are not counted.
        """
        if self.held + size > self._kept:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Stop keeping *size* bytes."""
        self.held -= size

    def refused(self) -> None:
        """Count a request refused for lack of room. Log the first one of an episode."""
        if not self._refused:
            self._logger.warning(
                "requests are refused with 503: %d bytes are held for clients, %d are allowed", self.held, self.limit
            )
        self._refused += 1

    def settle(self) -> None:
        """End an episode of refused requests if there is room again."""
        if self._refused and self.take_bodies:
            self._logger.info("there is room again, after %d requests were refused for lack of it", self._refused)
            self._refused = 0


class Share:
    """The bytes held by one request or connection.

    Attributes:
        held: Number of bytes.
    """

    __slots__ = ("_buffers", "held")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self.held: int = 0

    def add(self, count: int) -> None:
        """Hold *count* more bytes, or fewer if *count* is negative."""
        self.held += count
        self._buffers.held += count

    def set(self, count: int) -> None:
        """Hold *count* bytes from now on."""
        self.add(count - self.held)

    def give_back(self) -> None:
        """Hold no bytes any more. Idempotent."""
        self.set(0)
