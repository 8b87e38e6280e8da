"""Two versions of the package, each on a path of its own: the previous one, and the one under test."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.support.programs import ROOT

PREVIOUS: Final = "65c253e2032f76f366db92cb02e51cebd951559a"
"""The commit of the previous version. Today's version must work with its processes, and read what it has left."""


def build_previous(directory: Path) -> Path:
    """Build the wheel of the previous version in *directory*; return the directory in which it was unpacked."""
    source, unpacked = directory / "source", directory / "previous"
    source.mkdir()
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "--extract", "--directory", source], input=archive, check=True)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(build, cwd=source, env={**os.environ, "PYTHONPATH": ""}, stdout=subprocess.DEVNULL, check=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(unpacked)
    return unpacked


def with_release(release: Path) -> Mapping[str, str]:
    """Return the environment of a process that imports serve_bridge from *release*, and tests from here."""
    # Safe: without the working directory, which may have another version.
    return {"PYTHONPATH": os.pathsep.join([str(release), str(ROOT)]), "PYTHONSAFEPATH": "1"}
