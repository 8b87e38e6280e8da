"""Places: directories of an instance, and their deletion by the system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, error, warning

CHECK: Final = "places"

IN_MEMORY: Final = ("tmpfs", "ramfs")
"""File systems whose files are lost when the machine restarts."""
CLEANED: Final = ("/tmp", "/var/tmp")
"""Directories from which systemd-tmpfiles deletes old files."""


@dataclass(frozen=True)
class PlaceFacts:
    """A directory in which an instance keeps something.

    Attributes:
        path: Its path.
        holds: What it holds, such as "the sockets of the instance".
        is_lasting: Whether its content must outlive a restart of the machine.
        filesystem: Type of its file system, such as "ext4"; "": it is not known.
        lingers: Whether the user lingers: logind keeps the user's runtime directory after the last logout.
        is_cleaned: Whether systemd-tmpfiles cleans up on this machine.
    """

    path: str
    holds: str
    is_lasting: bool
    filesystem: str
    lingers: bool
    is_cleaned: bool


def check_places(facts: Iterable[PlaceFacts]) -> Iterator[Finding]:
    """Yield a finding for each directory without a safe place."""
    for each in facts:
        if each.is_lasting and each.filesystem in IN_MEMORY:
            yield error(
                CHECK,
                f"{each.path} is in memory ({each.filesystem}), so {each.holds} would be lost when the machine "
                "restarts",
                "choose a directory on a disk with --state",
            )
        if PurePath(each.path).is_relative_to("/run/user") and not each.lingers:
            yield warning(
                CHECK,
                f"{each.path} has {each.holds}, and logind deletes it after the last logout of the user",
                "loginctl enable-linger, or set XDG_RUNTIME_DIR to a directory that stays, such as one of systemd's "
                "RuntimeDirectory=",
            )
        if each.is_cleaned and any(PurePath(each.path).is_relative_to(cleaned) for cleaned in CLEANED):
            yield warning(
                CHECK,
                f"{each.path} has {each.holds}, and systemd-tmpfiles deletes old files there",
                "set XDG_RUNTIME_DIR to a directory of the user, such as /run/user/UID with lingering"
                if not each.is_lasting
                else "choose another directory with --state",
            )
