"""Where an instance keeps its state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from serve_bridge.errors import ConfigError
from serve_bridge.instance.state_directory import chosen_state_directory, state_directory


def test_by_default_it_is_the_users_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative value of XDG_STATE_HOME does not count, as its specification says."""
    monkeypatch.setenv("HOME", "/home/ann")
    for home in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", home)
        assert state_directory("shop") == Path("/home/ann/.local/state/serve_bridge/shop")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert state_directory("shop") == Path("/var/state/serve_bridge/shop")


@pytest.mark.parametrize(
    ("given", "detached", "expected"),
    [
        (None, True, "/var/state/serve_bridge/shop"),
        (None, False, None),
        (True, False, "/var/state/serve_bridge/shop"),
        (False, True, None),
        ("/srv/state", False, "/srv/state/shop"),
        (Path("/srv/state"), True, "/srv/state/shop"),
    ],
)
def test_the_option_decides(monkeypatch: pytest.MonkeyPatch, given: Any, detached: bool, expected: str | None) -> None:
    """Without it, only an instance that outlives its process keeps a state."""
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    found = chosen_state_directory("shop", given, detached=detached)
    assert (None if found is None else str(found)) == expected


def test_a_relative_directory_is_below_the_current_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The controller may have another current directory."""
    monkeypatch.chdir(tmp_path)
    assert state_directory("shop", "state") == tmp_path / "state" / "shop"


@pytest.mark.parametrize("given", ["", 5, b"", ["x"], "a\0b"])
def test_other_values_are_refused(given: Any) -> None:
    """The error says what the option may be."""
    with pytest.raises(ConfigError, match="state must be a directory, or False to keep no state"):
        chosen_state_directory("shop", given, detached=False)


def test_a_user_without_a_home_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as in a container with any user id."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    with pytest.raises(ConfigError, match=r"no home directory .*XDG_STATE_HOME.*--state.*--no-state"):
        chosen_state_directory("shop", None, detached=True)
    assert chosen_state_directory("shop", "/srv", detached=True) == Path("/srv/shop")
