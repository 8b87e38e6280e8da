"""The budget of a router for retries of requests which may have run."""

from __future__ import annotations

import pytest

from serve_bridge.routing.retry_budget import RETRY_CAP, RETRY_RESERVE, RETRY_SHARE, RetryBudget
from serve_bridge.routing.router_statistics import RouterStatistics


def spent(budget: RetryBudget) -> int:
    """Spend the whole budget; return the number of retries in it."""
    count = 0
    while budget.spend():
        count += 1
    return count


def test_a_new_budget_has_its_reserve() -> None:
    """A new router may retry before it has routed ten requests."""
    assert spent(RetryBudget(RouterStatistics())) == RETRY_RESERVE


@pytest.mark.parametrize(("routed", "retries"), [(9, 0), (10, 1), (25, 2), (50, 5)])
def test_routed_requests_pay_for_retries(routed: int, retries: int) -> None:
    """A tenth of the requests since the last retry may be sent again."""
    statistics = RouterStatistics()
    budget = RetryBudget(statistics)
    spent(budget)
    statistics.routed += routed
    assert spent(budget) == retries == int(routed * RETRY_SHARE)


def test_a_budget_does_not_grow_above_its_cap() -> None:
    """A long time without failures does not save up retries for a storm."""
    statistics = RouterStatistics(routed=int(100 * RETRY_CAP / RETRY_SHARE))
    assert spent(RetryBudget(statistics)) == RETRY_CAP
