"""The wait before a retry.

Rule 1: the module is pure except for the jitter. With jitter, processes that failed together do not retry together.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Backoff"]

_MAX_DOUBLINGS: Final = 30
"""Upper limit for the doublings of a wait. It keeps the power of two small."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Waits before retries. They double with each failure, and jitter shortens each by up to half.

    Attributes:
        shortest_s: The wait after the first failure, in seconds, before jitter.
        longest_s: Upper limit for a wait, in seconds.
        random: Returns a number from 0 to 1 for the jitter.
    """

    shortest_s: float
    longest_s: float
    random: Callable[[], float] = random.random

    def wait_s(self, failures: int) -> float:
        """Return the seconds to wait after the last of *failures* in a row; 0 if there were none."""
        if failures < 1:
            return 0.0
        wait_s: float = min(self.shortest_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), self.longest_s)
        return wait_s * (0.5 + self.random() / 2)

    def waits_s(self) -> Iterator[float]:
        """Yield the seconds to wait after the first failure, the second, and so on, without an end."""
        return (self.wait_s(failures) for failures in itertools.count(1))
