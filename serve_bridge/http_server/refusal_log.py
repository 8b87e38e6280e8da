"""The count and the log of refused requests."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from serve_bridge.http_server.refusal import Refusal

__all__ = ["RefusalLog"]

EPISODE_S: Final = 10.0
"""Length in seconds of an episode, over which refusals are logged together."""

LINES: Final = 5
"""Upper limit for the log lines of one status in an episode. One more line counts the other refusals."""


class RefusalLog:
    """Counts each refusal by its status, and logs a flood of them in a few lines.

    Attributes:
        counts: Number of refused requests by status, since the server started.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.counts: Counter[int] = Counter()
        self._logger = logger
        self._age_s = 0.0
        self._lines: Counter[int] = Counter()
        self._unlogged: Counter[int] = Counter()

    def note(self, refusal: Refusal, request_id: str, *, level: int = logging.INFO) -> None:
        """Count a refusal. Log it if the episode has few lines with its status."""
        self.counts[refusal.status] += 1
        if self._lines[refusal.status] < LINES:
            self._lines[refusal.status] += 1
            message = "refused a request with %d: %s (request id %s)"
            self._logger.log(level, message, refusal.status, refusal.reason, request_id)
        else:
            self._unlogged[refusal.status] += 1

    def settle(self, elapsed: float) -> None:
        """Count time, and end an episode that has lasted `EPISODE_S`; *elapsed*: seconds since the last call."""
        if not self._lines:
            return
        self._age_s += elapsed
        if self._age_s < EPISODE_S:
            return
        if self._unlogged:
            summed = ", ".join(f"{count} with {status}" for status, count in sorted(self._unlogged.items()))
            self._logger.info("refused %d more requests: %s", self._unlogged.total(), summed)
            self._unlogged.clear()
        self._age_s = 0.0
        self._lines.clear()
