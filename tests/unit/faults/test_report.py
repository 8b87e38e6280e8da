"""The page of the promises: it has all of them, names tests that exist, and shows the kept results."""

from __future__ import annotations

import re

import pytest

from tests.faults.report import page
from tests.faults.report.promises import PROMISES
from tests.support.programs import ROOT


def test_every_promise_has_a_row() -> None:
    """P1 to P37, in order, before the faults without a number."""
    assert list(PROMISES)[:37] == [f"P{number}" for number in range(1, 38)]


@pytest.mark.parametrize("test", sorted({test for promise in PROMISES.values() for test in promise.tests}))
def test_a_row_names_tests_that_exist(test: str) -> None:
    """A file or directory, or a function in a file."""
    path, _, function = test.partition("::")
    assert (ROOT / path).exists()
    if function:
        assert re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_the_page_is_made_of_the_kept_results() -> None:
    """`python -m tests.faults.report` without a row writes it again."""
    assert (ROOT / page.PAGE).read_text() == page.markdown(page.results())


def test_each_kept_result_passed() -> None:
    """A promise that does not hold is not published as a figure."""
    assert [row for row, result in page.results().items() if not result.passed] == []
