"""Directories that the operating system is known to delete."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from serve_bridge.instance.vanishing_places import why_it_vanishes

LOGINS = Path("/run/user") / str(os.geteuid()) / "serve_bridge"
USER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with systemd."""
    for directory in ("run/systemd/users", "run/systemd/system", "var/lib/systemd/linger", "usr/lib/tmpfiles.d"):
        (tmp_path / directory).mkdir(parents=True)
    return tmp_path


def test_the_directory_of_a_login_goes_with_it(root: Path) -> None:
    """The reason names the command that keeps it."""
    assert f"loginctl enable-linger {USER}" in (why_it_vanishes(LOGINS, root) or "")


def test_the_directory_of_a_lingering_user_stays(root: Path) -> None:
    """Its user has a file in the directory of systemd."""
    (root / "var/lib/systemd/linger" / USER).touch()
    assert why_it_vanishes(LOGINS, root) is None


def test_without_a_login_manager_the_directory_stays(tmp_path: Path) -> None:
    """As in a container."""
    assert why_it_vanishes(LOGINS, tmp_path) is None
    assert why_it_vanishes(Path("/tmp/serve_bridge-0"), tmp_path) is None


@pytest.mark.parametrize(
    ("rule", "age"),
    [("q /tmp 1777 root root 10d", "10d"), ("q /tmp 1777 root root -", ""), ("q /tmp 1777 root root", "")],
)
def test_a_rule_with_an_age_cleans_the_temporary_directory(root: Path, rule: str, age: str) -> None:
    """Without an age it is only made."""
    (root / "usr/lib/tmpfiles.d/tmp.conf").write_text(f"# a comment\n{rule}\nq /var/tmp 1777 root root 30d\n")
    found = why_it_vanishes(Path("/tmp/serve_bridge-0"), root)
    assert (found is not None) == bool(age)
    assert age in (found or "")
    assert "XDG_RUNTIME_DIR" in (found or "XDG_RUNTIME_DIR")


def test_the_rules_of_the_administrator_hide_those_of_the_system(root: Path) -> None:
    """A file of the same name counts instead."""
    (root / "usr/lib/tmpfiles.d/tmp.conf").write_text("q /tmp 1777 root root 10d\n")
    (root / "etc/tmpfiles.d").mkdir(parents=True)
    (root / "etc/tmpfiles.d/tmp.conf").write_text("q /tmp 1777 root root -\n")
    assert why_it_vanishes(Path("/tmp/serve_bridge-0"), root) is None


def test_any_other_directory_stays(root: Path) -> None:
    """Nothing is known about it."""
    assert why_it_vanishes(Path("/srv/run/serve_bridge"), root) is None


def test_a_user_without_a_home_gets_another_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as in a container with any user id, where a start asks for the reason too."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    assert "such as /var/lib/serve_bridge" in (why_it_vanishes(LOGINS, root) or "")
