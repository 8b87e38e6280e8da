"""The steps of an update in bounded room: how many replicas to start or to end next.

Rule 1: pure. `rolling_updates` counts the replicas and takes the steps.
Rule 2: no step exceeds the room, and each state without unready replicas has a next step.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """The room of an update.

    Attributes:
        surge: Upper limit for the running replicas above the wanted number.
        unavailable: Upper limit for the wanted replicas that do not serve.
    """

    surge: int
    unavailable: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The replicas of one backend during an update.

    Attributes:
        wanted: The wanted number.
        new_ready, new_unready: Replicas of the new code that pass their health probes, and others.
        old_ready, old_unready: The same for the old code.
        ending: Replicas that drain.
    """

    wanted: int
    new_ready: int = 0
    new_unready: int = 0
    old_ready: int = 0
    old_unready: int = 0
    ending: int = 0

    @property
    def running(self) -> int:
        """The number of running replicas."""
        return self.new_ready + self.new_unready + self.old_ready + self.old_unready + self.ending


@dataclass(frozen=True)
class Step:
    """The next step: start so many replicas of the new code, or end so many of the old code; 0 and 0: wait."""

    start: int = 0
    end: int = 0


def next_step(counts: Counts, room: Room) -> Step:
    """Return the next step. Old replicas that are not ready are ended first, since they do not serve."""
    missing = counts.wanted - counts.new_ready - counts.new_unready
    free = counts.wanted + room.surge - counts.running
    if min(missing, free) > 0:
        return Step(start=min(missing, free))
    spare = counts.new_ready + counts.old_ready - (counts.wanted - room.unavailable)
    return Step(end=counts.old_unready + min(max(spare, 0), counts.old_ready))
