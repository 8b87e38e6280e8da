"""The oracle finds what it is there to find: each test puts one wrong thing into a good run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.faults.support.oracle import (
    Event,
    Journal,
    Outcome,
    Run,
    digest_of,
    events_in,
    line_of,
    outcomes_in,
    payload_of,
    violations,
)


def outcome(id: str, **changes: object) -> Outcome:
    """Return the outcome of a request that went well, but for *changes*."""
    answered = Outcome(
        id=id,
        kind="other",
        intended=1.0,
        sent=1.0,
        done=1.2,
        deadline=2.0,
        status=200,
        echoed=id,
        digest=digest_of(payload_of(id)),
        version="v1",
    )
    return replace(answered, **changes)  # type: ignore[arg-type]


def ran(*ids: str, at: float = 1.1) -> list[Event]:
    """Return what the journal has of requests that ran."""
    return [Event(event, id, "v1", 1, at) for id in ids for event in ("start", "end")]


GOOD = Run(ran("a", "b"), [outcome("a"), outcome("b")], ["a", "b"])


def test_a_good_run_has_no_violations() -> None:
    """Two requests, each answered once by its own answer."""
    assert violations(GOOD) == {}


def test_a_duplicate_start_of_a_request_that_is_not_idempotent_is_found() -> None:
    """I4: the same id started twice."""
    assert list(violations(replace(GOOD, events=[*GOOD.events, *ran("a")]))) == ["never_twice"]


def test_a_second_start_of_an_idempotent_request_is_allowed() -> None:
    """A retry is what idempotent requests are for."""
    outcomes = [outcome("a", kind="idempotent"), outcome("b")]
    assert violations(Run([*GOOD.events, *ran("a")], outcomes, GOOD.sent)) == {}


def test_a_third_start_is_found() -> None:
    """I6: one retry is the limit."""
    outcomes = [outcome("a", kind="idempotent"), outcome("b")]
    assert list(violations(Run([*GOOD.events, *ran("a", "a")], outcomes, GOOD.sent))) == ["few_attempts"]


def test_too_many_retries_over_all_are_found() -> None:
    """I6: the budget is a share of the requests."""
    ids = [f"r{number}" for number in range(20)]
    outcomes = [outcome(id, kind="idempotent") for id in ids]
    assert list(violations(Run(ran(*ids, *ids[:8]), outcomes, ids))) == ["few_attempts"]


def test_a_missing_outcome_is_found() -> None:
    """I1: a request that nobody ever heard of again."""
    assert list(violations(replace(GOOD, outcomes=[outcome("a")]))) == ["one_outcome"]


def test_a_second_outcome_is_found() -> None:
    """I1: one request, two answers."""
    assert list(violations(replace(GOOD, outcomes=[*GOOD.outcomes, outcome("a")]))) == ["one_outcome"]


def test_somebody_elses_answer_is_found() -> None:
    """I2: the id that came back is another's."""
    assert list(violations(replace(GOOD, outcomes=[outcome("a", echoed="b"), outcome("b")]))) == ["own_answer"]


def test_a_changed_payload_is_found() -> None:
    """I2: the backend saw other bytes than were sent."""
    wrong = outcome("a", digest=digest_of(b"other"))
    assert list(violations(replace(GOOD, outcomes=[wrong, outcome("b")]))) == ["own_answer"]


def test_an_answer_without_an_end_is_found() -> None:
    """I3: an answer to what has not run to its end."""
    assert list(violations(replace(GOOD, events=GOOD.events[:-1]))) == ["answered_ran"]


def test_a_start_of_what_was_said_not_to_be_executed_is_found() -> None:
    """I5: the proof was none."""
    failed = outcome("a", status=503, executed="no")
    assert list(violations(replace(GOOD, outcomes=[failed, outcome("b")]))) == ["not_executed"]


def test_a_start_after_the_deadline_is_found() -> None:
    """I9: its caller had given up already."""
    late = [*ran("a", at=2.5), *ran("b")]
    assert list(violations(replace(GOOD, events=late))) == ["in_time"]


def test_an_answer_by_the_old_version_after_the_update_is_found() -> None:
    """I7: the update had returned before the request was sent."""
    assert list(violations(GOOD, {"v1": 0.9})) == ["old_version_gone"]


def test_an_answer_by_the_old_version_during_the_update_is_allowed() -> None:
    """What was sent before the update returned may see either."""
    assert violations(GOOD, {"v1": 1.1}) == {}


def test_the_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Two journals of one file lose nothing of each other."""
    path = tmp_path / "journal"
    first, second = Journal(str(path), "v1"), Journal(str(path), "v2")
    first.start("a")
    second.start("b")
    first.end("a")
    found = [(event.event, event.id, event.version, event.pid) for event in events_in(path)]
    pid = os.getpid()
    assert found == [("start", "a", "v1", pid), ("start", "b", "v2", pid), ("end", "a", "v1", pid)]


def test_outcomes_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A caller's log survives the file."""
    path = tmp_path / "log"
    path.write_bytes(line_of(outcome("a")) + line_of(outcome("b", status=503)))
    assert outcomes_in(path) == [outcome("a"), outcome("b", status=503)]
