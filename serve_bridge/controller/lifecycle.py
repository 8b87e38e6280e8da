"""The life of a replica: its states, and the events between them.

Rule 1: the table below is the whole life cycle. No other code decides which state follows an event.
Rule 2: no I/O and no clock. `replicas` and its helpers report events, and act on the new state.
Rule 3: only replicas in READY get requests.
Rule 4: a late report, such as a probe of a draining replica or a second retirement, is legal and changes nothing. A
    stopped replica accepts no event, because the controller has forgotten it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["TRANSITIONS", "ReplicaEvent", "ReplicaState", "advance"]


class ReplicaState(StrEnum):
    """A stage in the life of a replica."""

    STARTING = "starting"
    """Its process has been launched, but user code has not answered a probe yet."""
    READY = "ready"
    """User code answers probes, and routers send requests here."""
    UNHEALTHY = "unhealthy"
    """The last probe failed. Routers send no requests here until a probe succeeds."""
    DRAINING = "draining"
    """It accepts no new requests, and finishes the accepted ones."""
    STOPPED = "stopped"
    """Its process has ended."""


class ReplicaEvent(StrEnum):
    """An event in the life of a replica."""

    PROBED = "probed"
    """User code answered a health probe."""
    PROBE_FAILED = "probe_failed"
    """A health probe raised, or was not answered in time."""
    RETIRED = "retired"
    """The replica is no longer wanted: it was scaled down, updated, replaced or deleted."""
    EMPTIED = "emptied"
    """Its accepted requests are done, or its grace time is over."""
    DIED = "died"
    """Its process ended, by itself or by the controller."""


STARTING, READY, UNHEALTHY, DRAINING, STOPPED = ReplicaState
PROBED, PROBE_FAILED, RETIRED, EMPTIED, DIED = ReplicaEvent

TRANSITIONS: Final[Mapping[ReplicaState, Mapping[ReplicaEvent, ReplicaState]]] = MappingProxyType({
    # A replica without a first successful probe has no requests, so it is stopped at once.
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
    """Return the state after *event* in *state*.

    Raises:
        RuntimeError: The event is not possible in this state, so the caller has an error.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise RuntimeError(f"a replica in the state {state} accepts no event '{event}'") from None
