"""RefusalLog are counted one by one, and logged within limits."""

from __future__ import annotations

import logging

import pytest

from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusal_log import EPISODE_S, LINES, RefusalLog

LOGGER = logging.getLogger("serve_bridge.proxy")


def test_each_refusal_is_counted_by_its_status() -> None:
    """The log has nothing to do with it."""
    refusals = RefusalLog(LOGGER)
    for status in (400, 413, 400):
        refusals.note(Refusal(status, "why"), "id")
    assert refusals.counts == {400: 2, 413: 1}


def test_a_flood_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """The first of an episode have a line each, with id and reason; one line at its end counts the others."""
    caplog.set_level(logging.INFO, LOGGER.name)
    refusals = RefusalLog(LOGGER)
    for number in range(1_000):
        refusals.note(Refusal(400, "malformed"), f"id-{number}")
    refusals.note(Refusal(413, "too large"), "id-big")
    refusals.settle(EPISODE_S / 2)
    assert len(caplog.messages) == LINES + 1
    assert caplog.messages[0] == "refused a request with 400: malformed (request id id-0)"
    assert caplog.messages[-1] == "refused a request with 413: too large (request id id-big)"
    refusals.settle(EPISODE_S / 2)
    assert caplog.messages[LINES + 1 :] == [f"refused {1_000 - LINES} more requests: {1_000 - LINES} with 400"]


def test_the_next_episode_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """And a quiet time logs nothing."""
    caplog.set_level(logging.INFO, LOGGER.name)
    refusals = RefusalLog(LOGGER)
    for _ in range(LINES):
        refusals.note(Refusal(400, "malformed"), "id")
    refusals.settle(EPISODE_S)
    refusals.settle(EPISODE_S)
    assert len(caplog.messages) == LINES
    refusals.note(Refusal(400, "malformed"), "last")
    assert caplog.messages[-1].endswith("(request id last)")
