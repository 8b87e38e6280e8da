"""The deadlines of a connection are numbers that a sweep compares."""

from __future__ import annotations

import math

from serve_bridge.http_server.connection_deadlines import ConnectionDeadlines
from serve_bridge.http_server.pace import GRACE_S


def test_a_connection_without_a_deadline_never_expires() -> None:
    """A request that is being served has none."""
    assert not ConnectionDeadlines().passed(1e12, 0.0)


def test_a_connection_expires_at_the_end_of_its_time() -> None:
    """Not before it."""
    deadlines = ConnectionDeadlines()
    deadlines.allow(100.0, 10.0)
    assert [deadlines.passed(now, 0.0) for now in (109.9, 110.0)] == [False, True]


def test_a_full_server_takes_a_part_of_the_time_away() -> None:
    """The part counts from the end of the time."""
    deadlines = ConnectionDeadlines()
    deadlines.allow(100.0, 10.0)
    assert [deadlines.passed(now, 0.75) for now in (102.4, 102.5)] == [False, True]


def test_a_shorter_time_wins_and_a_longer_one_changes_nothing() -> None:
    """A server that drains may only bring the end forward."""
    deadlines = ConnectionDeadlines()
    deadlines.allow(100.0, 10.0)
    deadlines.shorten(100.0, 20.0)
    assert deadlines.next_s == 110.0
    deadlines.shorten(100.0, 1.0)
    assert deadlines.next_s == 101.0


def test_the_next_body_is_measured_from_its_own_start() -> None:
    """The bytes and the silence of the body before it do not count."""
    deadlines = ConnectionDeadlines()
    deadlines.expect_body(240)
    assert not deadlines.body_is_too_slow(GRACE_S, 100, math.inf)
    deadlines.expect_body(240)
    assert not deadlines.body_is_too_slow(GRACE_S - 0.1, 0, math.inf)
    assert deadlines.body_is_too_slow(0.2, 0, math.inf)
