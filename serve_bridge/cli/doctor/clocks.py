"""Clocks: the difference between this machine and the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, warning

CHECK: Final = "clocks"
MOST_S: Final = 2.0
"""Upper limit for a difference without a finding, in seconds."""


@dataclass(frozen=True)
class ClockFacts:
    """The clocks of both sides.

    Attributes:
        asked_at, answered_at: The clock of this machine before and after the question, in seconds since the epoch.
        engine: The clock of the engine in its answer.
    """

    asked_at: float
    answered_at: float
    engine: float

    @property
    def difference_s(self) -> float:
        """The least possible difference; positive: the engine's clock is ahead."""
        if self.asked_at <= self.engine <= self.answered_at:
            return 0.0
        return self.engine - (self.answered_at if self.engine > self.answered_at else self.asked_at)


def check_clocks(facts: ClockFacts) -> Iterator[Finding]:
    """Yield a finding if the clocks differ."""
    difference_s = facts.difference_s
    if abs(difference_s) > MOST_S:
        direction = "ahead of" if difference_s > 0 else "behind"
        yield warning(
            CHECK,
            f"the clock of the engine is {abs(difference_s):.1f} s {direction} the clock of this machine. Requests do "
            "not depend on it, but the times in logs and the dates of certificates do",
            "let both machines use a time server, such as chrony or systemd-timesyncd",
        )
