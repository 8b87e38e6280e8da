"""The admission of a replica: its slots for requests, and the queue of Ray calls for a slot.

Rule 1: `max_concurrent_queries` is enforced here and nowhere else.
Rule 2: a Ray call waits for a slot, because Ray has accepted the call already. Other requests are rejected.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from serve_bridge.errors import CALL_HINT, no_answer


class Admission:
    """The slots of one replica.

    An admitted request takes its slot by `in_flight += 1`, in the thread of the loop, and gives it back by `release`.

    Attributes:
        limit: Upper limit for requests running at the same time.
        in_flight: Requests running now.
        is_draining: Whether the replica rejects new requests.
        last_release: Time of `time.monotonic()` at which the last request ended; 0.0 before the first.
        queue: Ray calls waiting for a slot, in the order of their arrival.
    """

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.in_flight: int = 0
        self.is_draining = False
        self.last_release: float = 0.0
        self.queue: deque[asyncio.Future[None]] = deque()

    def change_limit(self, limit: int) -> None:
        """Allow *limit* requests at the same time from now on."""
        self.limit = limit
        self._advance()

    def release(self) -> None:
        """Give back the slot of an ended request."""
        self.in_flight -= 1
        self.last_release = time.monotonic()
        self._advance()

    async def take(self, endpoint: str, timeout_s: float) -> None:
        """Take a slot for a call of *endpoint*, after the calls already waiting.

        Raises:
            DeadlineExceeded: No slot came free within *timeout_s*.
        """
        if self.in_flight < self.limit and not self.queue:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self.queue.append(turn)
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the slot and the timeout came in one turn of the loop
                self.release()
            if isinstance(error, TimeoutError):
                raise no_answer(endpoint, timeout_s, "no", CALL_HINT) from None
            raise

    def _advance(self) -> None:
        """Give free slots to the waiting calls."""
        while self.queue and self.in_flight < self.limit:
            turn = self.queue.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
