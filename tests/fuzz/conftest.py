"""Tells in a failed test how its inputs are made again."""

from __future__ import annotations

import pytest

from tests.fuzz.support.inputs import SEED


@pytest.fixture(autouse=True)
def shown_seed(request: pytest.FixtureRequest) -> None:
    """Add the seed to the report, which pytest shows where a test fails."""
    request.node.add_report_section("setup", "seed", f"FUZZ_SEED={SEED} makes these inputs again")
