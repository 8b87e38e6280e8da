"""The life of a replica, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.controller.lifecycle import TRANSITIONS, ReplicaEvent, ReplicaState, advance


def life(*events: ReplicaEvent) -> ReplicaState:
    """Return the state after some events."""
    state = ReplicaState.STARTING
    for event in events:
        state = advance(state, event)
    return state


def test_every_state_has_a_row() -> None:
    """The table is total over the states."""
    assert set(TRANSITIONS) == set(ReplicaState)


def test_the_page_on_the_design_shows_the_table() -> None:
    """Each row of docs/design.md has the state after each event, or nothing if the event cannot happen."""
    page = (Path(__file__).parents[3] / "docs" / "design.md").read_text()
    header, _, *rows = page[page.index("| state | probed |") :].partition("\n\n")[0].splitlines()
    _, *events = _cells(header)
    assert events == [str(event).replace("_", " ") for event in ReplicaEvent]
    shown = {state: next_states for state, *next_states in map(_cells, rows)}
    assert shown == {
        str(state): [str(TRANSITIONS[state].get(event, "")) for event in ReplicaEvent]
        for state in ReplicaState
        if TRANSITIONS[state]
    }


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_a_probed_replica_is_ready() -> None:
    """Ready means that user code answered."""
    assert life(ReplicaEvent.PROBED) is ReplicaState.READY


def test_a_failed_probe_does_not_end_a_start() -> None:
    """A slow constructor fails probes; its time limit is kept elsewhere."""
    assert life(ReplicaEvent.PROBE_FAILED) is ReplicaState.STARTING


def test_an_unhealthy_replica_comes_back_with_the_next_good_probe() -> None:
    """A pause is no death."""
    assert life(ReplicaEvent.PROBED, ReplicaEvent.PROBE_FAILED) is ReplicaState.UNHEALTHY
    assert life(ReplicaEvent.PROBED, ReplicaEvent.PROBE_FAILED, ReplicaEvent.PROBED) is ReplicaState.READY


def test_a_retired_replica_drains_before_it_stops() -> None:
    """What was accepted is finished."""
    assert life(ReplicaEvent.PROBED, ReplicaEvent.RETIRED) is ReplicaState.DRAINING
    assert life(ReplicaEvent.PROBED, ReplicaEvent.RETIRED, ReplicaEvent.EMPTIED) is ReplicaState.STOPPED


def test_a_replica_that_never_was_ready_stops_at_once() -> None:
    """It has accepted nothing, so there is nothing to drain."""
    assert life(ReplicaEvent.RETIRED) is ReplicaState.STOPPED


def test_a_late_probe_does_not_bring_a_draining_replica_back() -> None:
    """Retirement is final."""
    assert life(ReplicaEvent.PROBED, ReplicaEvent.RETIRED, ReplicaEvent.PROBED) is ReplicaState.DRAINING


@pytest.mark.parametrize("event", ReplicaEvent)
def test_nothing_happens_to_a_stopped_replica(event: ReplicaEvent) -> None:
    """An event for it is a mistake in the bookkeeping, and said so."""
    with pytest.raises(RuntimeError, match=f"in the state stopped accepts no event '{event}'"):
        advance(ReplicaState.STOPPED, event)


@given(st.lists(st.sampled_from(ReplicaEvent)))
def test_a_replica_that_died_is_stopped_whatever_came_before(events: list[ReplicaEvent]) -> None:
    """Death is legal in every state but the last."""
    state = ReplicaState.STARTING
    for event in events:
        if event in TRANSITIONS[state]:
            state = advance(state, event)
    assert state is ReplicaState.STOPPED or advance(state, ReplicaEvent.DIED) is ReplicaState.STOPPED


@given(st.lists(st.sampled_from(ReplicaEvent)))
def test_after_retirement_a_replica_is_never_routed_to(events: list[ReplicaEvent]) -> None:
    """No order of late events makes a retired replica ready."""
    state = life(ReplicaEvent.PROBED, ReplicaEvent.RETIRED)
    for event in events:
        state = TRANSITIONS[state].get(event, state)
        assert state is not ReplicaState.READY
