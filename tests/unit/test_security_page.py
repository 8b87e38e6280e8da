"""docs/security.md and docs/nodes.md name a test beside each claim."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.support.programs import ROOT

PAGE = ROOT / "docs" / "security.md"


def claims() -> list[tuple[str, str]]:
    """Return the rows of the tables with tests: each claim, and the text of its tests."""
    rows = []
    for table in re.split(r"\n\n", PAGE.read_text()):
        head, *lines = table.splitlines()
        if head == "| claim | test |":
            rows += [(line.split(" | ")[0].lstrip("| "), line.split(" | ")[1]) for line in lines[1:]]
    return rows


CLAIMS = claims()


@cache
def functions_of(path: str) -> set[str]:
    """Return the names of the functions in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("claim", "tests"), CLAIMS, ids=[claim for claim, _ in CLAIMS])
def test_each_claim_has_tests_that_exist(claim: str, tests: str) -> None:
    """A renamed test would leave a claim without proof."""
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
    assert named, claim
    assert [name for path, name in named if name not in functions_of(path)] == []


def test_the_page_has_claims() -> None:
    """The table is read."""
    assert len(CLAIMS) > 20


def test_the_first_claim_is_about_the_token() -> None:
    """It comes first, with a test on a whole instance."""
    claim, tests = CLAIMS[0]
    assert PAGE.read_text().index("## The first claim") < PAGE.read_text().index(claim)
    assert "Ray cannot be imported" in claim
    assert "tests/local/test_security.py::test_a_web_process_needs_neither_ray_nor_its_token" in tests


@pytest.mark.parametrize(
    "word",
    [
        "keys rotate",
        "unpickles",
        "TLS is version 1.3",
        "another user",
        "state directory",
        "doctor",
        "rebinding",
        "max_buffered",
    ],
)
def test_the_page_claims(word: str) -> None:
    """Each part of the threat model has a row."""
    assert any(word in claim for claim, _ in CLAIMS)


def test_the_tests_of_nodes_exist() -> None:
    """The page of nodes names them below its tables."""
    page = (ROOT / "docs" / "nodes.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 5
    assert [name for file, name in named if name not in functions_of(f"tests/nodes/{file}")] == []
