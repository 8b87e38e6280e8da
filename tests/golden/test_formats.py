"""The bytes of earlier versions have the same meaning today, and earlier versions can read today's bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve_bridge.controller import checkpoint
from serve_bridge.state import document
from serve_bridge.wire import handshake
from tests.golden.formats import FORMATS

DIRECTORY = Path(__file__).parent
STABLE = [name for name, each in FORMATS.items() if each.is_stable]


def golden(name: str) -> bytes:
    """Return the bytes of format *name*, by the version which added it."""
    return (DIRECTORY / f"{name}.bin").read_bytes()


def begins_with(value: Any, old: Any) -> bool:
    """Return whether *value* is *old*, or *old* with more fields at the end of a struct, at any depth."""
    if isinstance(old, list) and isinstance(value, list):
        return len(value) >= len(old) and all(map(begins_with, value, old))
    if isinstance(old, dict) and isinstance(value, dict):
        return old.keys() == value.keys() and all(begins_with(value[key], old[key]) for key in old)
    return bool(value == old)


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_of_an_earlier_version_keep_their_meaning(name: str) -> None:
    """Their writer may still run, or may have left them behind."""
    assert FORMATS[name].read(golden(name)) == FORMATS[name].means


@pytest.mark.parametrize("name", STABLE)
def test_the_same_bytes_are_written_today(name: str) -> None:
    """A process of an earlier version reads them. It skips fields behind the last one that it knows."""
    if FORMATS[name].may_grow:
        assert begins_with(msgspec.msgpack.decode(FORMATS[name].write()), msgspec.msgpack.decode(golden(name)))
    else:
        assert FORMATS[name].write() == golden(name)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in STABLE])
def test_a_pickle_of_today_has_the_same_meaning(name: str) -> None:
    """Its bytes depend on the versions of Python and of libraries, so they are not compared."""
    assert FORMATS[name].read(FORMATS[name].write()) == FORMATS[name].means


def test_every_file_belongs_to_a_format() -> None:
    """If a format is no longer read, its bytes go too."""
    assert {path.stem for path in DIRECTORY.glob("*.bin")} == set(FORMATS)


@pytest.mark.parametrize(
    "name", [f"handshake-{handshake.VERSION}", f"checkpoint-{checkpoint.FORMAT}", f"state-{document.FORMAT}"]
)
def test_a_new_number_has_bytes_of_its_own(name: str) -> None:
    """A change of a format's number is a new format."""
    assert name in FORMATS
