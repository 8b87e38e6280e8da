"""P16: the controller, the routers and the replicas do right in any order of events.

Each run is made by one seed: crashes, stops, broken and silent connections, late and lost frames, among changes and
requests. A failing test names its seed; `SIMULATION_SEED=7 python -m pytest tests/local/simulation` makes that run
again, and `python -m tests.local.simulation` makes many runs.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.replicas import Replicas
from serve_bridge.routing.router import Router
from tests.faults.report.figures import note
from tests.local.simulation.support.world import Findings, World

GIVEN = os.environ.get("SIMULATION_SEED")
STEPS = int(os.environ.get("SIMULATION_STEPS", "200"))
SEEDS = st.just(int(GIVEN)) if GIVEN else st.integers(0, 2**32 - 1)
COUNT = {"max_examples": int(os.environ["SIMULATION_SEEDS"])} if "SIMULATION_SEEDS" in os.environ else {}
WITHOUT_SHRINKING = settings(phases=[Phase.generate, Phase.reuse], **COUNT)  # type: ignore[arg-type]
"""A smaller seed is no simpler one."""
SEEDS_TO_FIND_A_FAULT = 40
SEEDS_WITH_A_PAST = ((150396, True), (8000, True), (500510, False), (500618, False))
"""One found an update that took the replicas of an undone one for its own, one a table with a replica that the
checkpoint did not have yet, and two a connection or a replica that was lost in the turn of its last step. Each fails
again without the change that mended its fault."""
GENTLE = "with crashes of the controller alone"


made: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    """Note the number of runs, for the page of the promises."""
    yield
    if made:
        note(made.total(), f"{made.total()} seeds with {STEPS} steps each, {made[GENTLE]} of them {GENTLE}; 0 failed")


def check(seed: int, *, is_gentle: bool) -> None:
    """Assert that nothing is wrong in the run of *seed*."""
    made[GENTLE if is_gentle else ""] += 1
    found = World(seed, is_gentle).play(STEPS)
    assert not found.problems, f"SIMULATION_SEED={seed} SIMULATION_STEPS={STEPS}: {found.problems}"


@WITHOUT_SHRINKING
@given(seed=SEEDS)
def test_invariants_hold_whatever_happens(seed: int) -> None:
    """I1 to I9, under crashes of replicas and controllers, stops, and connections that break or fall silent."""
    check(seed, is_gentle=False)


@WITHOUT_SHRINKING
@given(seed=SEEDS)
def test_changes_and_crashes_of_the_controller_lose_no_request(seed: int) -> None:
    """P1, P2, P5, P11: updates, resizes, splits, and a controller that dies in the middle of them."""
    check(seed, is_gentle=True)


@pytest.mark.parametrize(("seed", "is_gentle"), SEEDS_WITH_A_PAST)
def test_what_a_seed_has_found_is_mended(seed: int, is_gentle: bool) -> None:
    """Random seeds find these faults about once in a thousand runs."""
    check(seed, is_gentle=is_gentle)


def test_a_seed_makes_the_same_run_each_time() -> None:
    """So a failure can be looked at again."""

    def seen(found: Findings) -> list[object]:
        """Return the outcomes without the numbers of processes, which go on from run to run."""
        return [replace(outcome, replica="", error="") for outcome in found.run.outcomes]

    first, second = (World(16).play(60) for _ in range(2))
    assert seen(first) == seen(second)
    assert first.happened == second.happened


# Faults that are put into the code on purpose, to see that they are found.


def retry_whatever_may_have_run(patch: pytest.MonkeyPatch) -> None:
    """Send a request again although it is not idempotent and may have run."""
    patch.setattr(Router, "may_retry", lambda *_: True)


def publish_before_the_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Let routers have a change before it is checkpointed."""

    async def change(self: Any, apply: Callable[[Any], Any]) -> Any:
        async with self._commit:
            result = apply(self.wanted)
            await self.spread()
            await asyncio.sleep(1.0)  # so that few seeds find it
            await self._write(self.wanted)
        return result

    patch.setattr(CommittedState, "change", change)


def forget_the_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Answer a change that is not checkpointed."""

    async def write(self: Any, wanted: Any) -> None: ...

    patch.setattr(CommittedState, "_write", write)


def end_without_a_drain(patch: pytest.MonkeyPatch) -> None:
    """End a replica that is no longer wanted at once."""
    patch.setattr(Replicas, "_retire", Replicas.end_at_once)


@pytest.mark.parametrize(
    ("fault", "is_gentle"),
    [
        (retry_whatever_may_have_run, False),
        (publish_before_the_checkpoint, True),
        (forget_the_checkpoint, True),
        (end_without_a_drain, True),
    ],
)
def test_a_known_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None], is_gentle: bool
) -> None:
    """By one of a few seeds."""
    fault(monkeypatch)
    assert any(World(seed, is_gentle).play(STEPS).problems for seed in range(SEEDS_TO_FIND_A_FAULT))
