"""The steps of an update in bounded room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.controller.update_steps import Counts, Room, Step, next_step

bounds = st.integers(0, 9)


@pytest.mark.parametrize(
    ("room", "counts", "step"),
    [
        (Room(0, 1), Counts(wanted=8, old_ready=8), Step(end=1)),
        (Room(0, 1), Counts(wanted=8, old_ready=7), Step(start=1)),
        (Room(0, 1), Counts(wanted=8, old_ready=7, ending=1), Step()),
        (Room(1, 0), Counts(wanted=8, old_ready=8), Step(start=1)),
        (Room(1, 0), Counts(wanted=8, new_ready=1, old_ready=8), Step(end=1)),
        (Room(2, 1), Counts(wanted=4, new_ready=2, old_ready=4), Step(end=3)),
        (Room(0, 1), Counts(wanted=8, old_ready=6, old_unready=2), Step(end=2)),
        (Room(1, 0), Counts(wanted=2, new_ready=1, new_unready=1, old_ready=1), Step()),
        (Room(0, 1), Counts(wanted=8, old_ready=4), Step(start=4)),
        (Room(0, 1), Counts(wanted=4, old_ready=8), Step(end=5)),
    ],
)
def test_the_next_step(room: Room, counts: Counts, step: Step) -> None:
    """One replica after another, unready ones first, and also while the number of replicas changes."""
    assert next_step(counts, room) == step


@given(wanted=st.integers(1, 9), old=bounds, surge=bounds, unavailable=bounds)
def test_an_update_stays_in_its_room_and_ends(wanted: int, old: int, surge: int, unavailable: int) -> None:
    """From any number of old replicas, as long as the room is not 0."""
    room = Room(surge, unavailable or (1 if surge == 0 else 0))
    counts = Counts(wanted=wanted, old_ready=old)
    served = False
    for _ in range(3 * (wanted + old) + 3):
        if counts.new_ready == wanted:
            return
        step = next_step(counts, room)
        assert (step.start > 0) != (step.end > 0)
        counts = replace(counts, new_ready=counts.new_ready + step.start, old_ready=counts.old_ready - step.end)
        assert counts.old_ready >= 0
        if step.start:
            assert counts.running <= wanted + room.surge
        serving, least = counts.new_ready + counts.old_ready, wanted - room.unavailable
        served = served or serving >= least
        assert not served or serving >= least
    raise AssertionError("the update did not end")
