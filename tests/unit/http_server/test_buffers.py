"""The account of what a server holds: it is the sum of its shares, and its marks say what is given up."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.http_server.buffers import Buffers, Share

LIMIT = 1000
logger = logging.getLogger(__name__)
steps = st.lists(
    st.tuples(st.sampled_from(("add", "set", "give_back")), st.integers(0, 4), st.integers(0, 2 * LIMIT)), max_size=40
)


@given(steps)
def test_the_sum_is_that_of_the_shares_and_ends_at_nothing(steps: list[tuple[str, int, int]]) -> None:
    """Whatever the holders do, in any order; giving back twice is once."""
    buffers = Buffers(LIMIT, logger)
    shares = [Share(buffers) for _ in range(5)]
    held = [0] * 5
    for step, number, count in steps:
        share = shares[number]
        if step == "add":
            share.add(count)
            held[number] += count
        elif step == "set":
            share.set(count)
            held[number] = count
        else:
            share.give_back()
            held[number] = 0
        assert ([share.held for share in shares], buffers.held) == (held, sum(held))
    for share in shares:
        share.give_back()
    assert buffers.held == 0


@pytest.mark.parametrize(
    ("held", "bodies", "keep_alive", "full"),
    [
        (0, True, True, False),
        (749, True, True, False),
        (750, False, True, False),
        (899, False, True, False),
        (900, False, False, False),
        (999, False, False, False),
        (1000, False, False, True),
    ],
)
def test_bodies_are_given_up_first_then_idle_connections_then_all(
    held: int, bodies: bool, keep_alive: bool, full: bool
) -> None:
    """At three quarters of the limit, at nine tenths, at the limit."""
    buffers = Buffers(LIMIT, logger)
    Share(buffers).add(held)
    assert (buffers.take_bodies, buffers.keep_alive, buffers.full) == (bodies, keep_alive, full)


def test_an_episode_is_logged_at_its_beginning_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """However many are refused, and however often it is looked at; the next one is logged again."""
    caplog.set_level(logging.INFO, __name__)
    buffers = Buffers(LIMIT, logger)
    share = Share(buffers)
    for count in (3, 2):
        share.set(LIMIT)
        for _ in range(count):
            buffers.refused()
            buffers.settle()
        share.give_back()
        buffers.settle()
        buffers.settle()
    assert [(record.levelname, record.args) for record in caplog.records] == [
        ("WARNING", (LIMIT, LIMIT)),
        ("INFO", (3,)),
        ("WARNING", (LIMIT, LIMIT)),
        ("INFO", (2,)),
    ]
