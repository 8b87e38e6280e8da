"""Two versions of the package, each on a path of its own: the previous one, and the one under test."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.support.programs import ROOT

PREVIOUS: Final = Path(__file__).with_name("serve_bridge-0.1.0-py3-none-any.whl")
"""The wheel of the previous version. Today's version must work with its processes, and read what it has left.

It lies here, because a checkout need not have the history that it could be built from.
"""

PREVIOUS_VERSION: Final = PREVIOUS.name.split("-")[1]
"""Its version. Today's version has another one, so a test sees which of them serves."""


def unpack_previous(directory: Path) -> Path:
    """Unpack the wheel of the previous version in *directory*; return where it can be imported from."""
    unpacked = directory / "previous"
    with zipfile.ZipFile(PREVIOUS) as opened:
        opened.extractall(unpacked)
    return unpacked


def with_release(release: Path) -> Mapping[str, str]:
    """Return the environment of a process that imports serve_bridge from *release*, and tests from here."""
    # Safe: without the working directory, which may have another version.
    return {"PYTHONPATH": os.pathsep.join([str(release), str(ROOT)]), "PYTHONSAFEPATH": "1"}
