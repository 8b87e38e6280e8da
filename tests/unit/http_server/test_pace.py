"""How long a client may be slower than a rate."""

from __future__ import annotations

import pytest

from serve_bridge.http_server.pace import GRACE_S, Pace

RATE = 240
LIMIT_S = 30.0


def seconds_until_too_slow(pace: Pace, moved: int, *, most: int = 10_000) -> int:
    """Return after how many seconds of *moved* bytes each the client is too slow; *most*: never."""
    return next((second for second in range(1, most) if pace.spend(1.0, moved, LIMIT_S)), most)


@pytest.mark.parametrize(("moved", "seconds"), [(0, 6), (24, 6), (120, 11), (RATE, 10_000), (10 * RATE, 10_000)])
def test_a_slow_client_has_its_grace(moved: int, seconds: int) -> None:
    """The closer it comes to the rate, the longer it lasts; at the rate it lasts for ever."""
    assert GRACE_S == 5
    assert seconds_until_too_slow(Pace(RATE), moved) == seconds


def test_bytes_at_once_let_a_client_be_silent_up_to_its_limit() -> None:
    """Kernels take bytes in large pieces; but a client that has gone is not waited for by its old merits."""
    pace = Pace(RATE)
    assert not pace.spend(1.0, 100_000_000, LIMIT_S)
    assert seconds_until_too_slow(pace, 0) == LIMIT_S


def test_a_short_limit_is_the_grace() -> None:
    """A client never has more time than the limit."""
    assert Pace(RATE).spend(1.5, 0, 1.0)


def test_without_a_rate_any_byte_is_enough() -> None:
    """Only silence ends such a client."""
    pace = Pace(0)
    assert seconds_until_too_slow(pace, 1) == 10_000
    assert seconds_until_too_slow(pace, 0) == LIMIT_S
