"""What becomes of a replica: its states, and the events that lead from one to the next.

Rule 1: the life cycle is the table below; nobody else compares a state with an event.
Rule 2: no I/O, no clock. Who launches, probes and stops replicas reports events, and acts on the new state.
Rule 3: requests go to replicas in READY only.
Rule 4: a report that may come late (a probe of a replica that drains, a second retirement) is legal and
    changes nothing; a stopped replica takes no event at all, since whoever stopped it forgets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["TRANSITIONS", "ReplicaEvent", "ReplicaState", "advance"]


class ReplicaState(StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"
    """Launched; user code has not answered a probe yet."""
    READY = "ready"
    """User code answers probes; requests are routed here."""
    UNHEALTHY = "unhealthy"
    """A probe failed; nothing is routed here until one succeeds, or the replica is replaced."""
    DRAINING = "draining"
    """Takes nothing new, finishes what it has accepted."""
    STOPPED = "stopped"
    """Its process is gone."""


class ReplicaEvent(StrEnum):
    """What happens to a replica."""

    PROBED = "probed"
    """A health probe came back through user code."""
    PROBE_FAILED = "probe_failed"
    """A health probe raised, said no, or was not back in time."""
    RETIRED = "retired"
    """It is no longer wanted: scaled down, updated, replaced or deleted."""
    EMPTIED = "emptied"
    """The work it had accepted is done, or its grace is over."""
    DIED = "died"
    """Its process ended, whoever ended it."""


STARTING, READY, UNHEALTHY, DRAINING, STOPPED = ReplicaState
PROBED, PROBE_FAILED, RETIRED, EMPTIED, DIED = ReplicaEvent

TRANSITIONS: Final[Mapping[ReplicaState, Mapping[ReplicaEvent, ReplicaState]]] = MappingProxyType({
    # A replica that never was ready has accepted nothing, so it is stopped at once.
    STARTING: {PROBED: READY, PROBE_FAILED: STARTING, RETIRED: STOPPED, DIED: STOPPED},
    READY: {PROBED: READY, PROBE_FAILED: UNHEALTHY, RETIRED: DRAINING, DIED: STOPPED},
    UNHEALTHY: {PROBED: READY, PROBE_FAILED: UNHEALTHY, RETIRED: DRAINING, DIED: STOPPED},
    DRAINING: {
        PROBED: DRAINING,
        PROBE_FAILED: DRAINING,
        RETIRED: DRAINING,
        EMPTIED: STOPPED,
        DIED: STOPPED,
    },
    STOPPED: {},
})  # fmt: skip


def advance(state: ReplicaState, event: ReplicaEvent) -> ReplicaState:
    """Return the state that follows *state* upon *event*.

    Raises:
        RuntimeError: The event cannot happen in that state; the caller's bookkeeping is wrong.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise RuntimeError(f"a replica that is {state} takes no event '{event}'") from None
