"""Files: the owners and modes of files with keys, and of their directories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, error

CHECK: Final = "files"


@dataclass(frozen=True)
class FileFacts:
    """A file or directory that must belong to the user alone.

    Attributes:
        path: Its path.
        is_directory: Whether it is a directory.
        mode: Its permissions.
        owner: The id of its user.
        is_link: Whether it is a symbolic link.
    """

    path: str
    is_directory: bool
    mode: int
    owner: int
    is_link: bool = False


def check_files(facts: Iterable[FileFacts], user: int) -> Iterator[Finding]:
    """Yield a finding for each file that another user than *user* can open, or that is a link."""
    for each in facts:
        wanted = 0o700 if each.is_directory else 0o600
        if each.is_link:
            yield error(CHECK, f"{each.path} is a symbolic link", "give the path of the file itself")
        elif each.owner != user:
            yield error(
                CHECK,
                f"{each.path} belongs to the user {each.owner}, and this process runs as {user}",
                f"run as the user {each.owner}, or copy the file and give the copy to the user {user}",
            )
        elif each.mode & 0o077:
            yield error(
                CHECK,
                f"{each.path} has mode {each.mode:03o}, so other users can open it",
                f"chmod {wanted:03o} {each.path}. Other users may know its key, so make a new one",
            )
