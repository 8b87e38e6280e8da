"""Directories that are known to vanish: the operating system deletes them, or the files in them.

Rule 1: only the files that configure the operating system are read. No command runs.
"""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Final

from serve_bridge.instance.directories import lasting_directory

_CONFIGURATIONS: Final = ("etc/tmpfiles.d", "run/tmpfiles.d", "usr/lib/tmpfiles.d")
"""Where systemd-tmpfiles finds its rules. A file hides the files of the same name in later directories."""
_AGE: Final = re.compile(r"\d+(?:us|ms|s|min|m|h|d|w)?")


def why_it_vanishes(directory: Path, root: Path = Path("/")) -> str | None:
    """Return why *directory* is known to vanish, with a better place; None: no reason is known.

    *root* has the configuration of the operating system.
    """
    remedy = f"set XDG_RUNTIME_DIR to a directory that stays, such as {lasting_directory()}"
    logins = Path("/run/user") / str(os.geteuid())
    if directory.is_relative_to(logins):
        user = _user()
        if not (root / "run/systemd/users").is_dir() or (root / "var/lib/systemd/linger" / user).exists():
            return None
        return f"{logins} is deleted after the last logout of {user}; run `loginctl enable-linger {user}`, or {remedy}"
    for temporary in (Path("/tmp"), Path("/var/tmp")):
        if directory.is_relative_to(temporary) and (age := _cleaned_after(temporary, root)):
            return f"systemd-tmpfiles deletes files in {temporary} that were not used for {age}; {remedy}"
    return None


def _cleaned_after(directory: Path, root: Path) -> str:
    """Return the age from which files in *directory* are deleted, such as "10d"; "": they are not deleted."""
    if not (root / "run/systemd/system").is_dir():
        return ""
    rules: dict[str, Path] = {}
    for place in _CONFIGURATIONS:
        for path in sorted((root / place).glob("*.conf")):
            rules.setdefault(path.name, path)
    for _, path in sorted(rules.items()):  # the first rule for a path counts
        for line in path.read_text(errors="replace").splitlines():
            fields = line.split()
            if len(fields) > 1 and fields[0][:1] in "dDqQve" and fields[1] == str(directory):
                age = fields[5] if len(fields) > 5 else ""
                return age if _AGE.match(age) else ""
    return ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
