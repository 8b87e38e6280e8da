"""The counts of the fault tests, which FAULTS_SCALE chooses: 1 by default, 10 for `make faults`."""

from __future__ import annotations

import os
from typing import Final

SCALE: Final = float(os.environ.get("FAULTS_SCALE", "1"))
"""How much longer than at every commit the tests run."""


def at_scale(least: int, full: int) -> int:
    """Return *least* for a short run, *full* for `make faults`, and numbers between for scales from 1 to 10."""
    return round(least + (full - least) * min(1.0, max(0.0, (SCALE - 1) / 9)))
