"""The cache of names: what it keeps, and what it never keeps."""

from __future__ import annotations

import pytest

from serve_bridge.http.name_cache import ENTRIES, LONGEST, NameCache


def test_a_name_is_looked_up_once() -> None:
    """The second time its meaning is there."""
    found: list[bytes] = []

    def lowered(name: bytes) -> bytes:
        found.append(name)
        return name.lower()

    names = NameCache(lowered)
    assert [names[b"A"], names[b"A"]] == [b"a", b"a"]
    assert found == [b"A"]


def test_a_long_name_is_never_kept() -> None:
    """One name of a client can be as long as a whole head."""
    names = NameCache(str.upper)
    assert names["a" * LONGEST] == "A" * LONGEST
    assert names["b" * (LONGEST + 1)] == "B" * (LONGEST + 1)
    assert list(names) == ["a" * LONGEST]


def test_the_number_of_names_is_bounded() -> None:
    """A cache that is full begins again, so the names in use come back."""
    names = NameCache(str.upper)
    for number in range(3 * ENTRIES):
        assert names[f"x-{number}"] == f"X-{number}"
        assert len(names) <= ENTRIES


def test_a_name_without_a_meaning_is_not_kept() -> None:
    """The error is raised each time."""
    names: NameCache[str, int] = NameCache(int)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            names["x"]
    assert not names
