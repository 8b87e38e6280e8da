"""How many inputs a fuzz test makes, and from which seed.

A quick run makes a tenth of the inputs of a full one. FAULTS_SCALE multiplies the inputs of a quick run.
FUZZ_SEED and FUZZ_FROM make the inputs of an earlier run again: its seed, and the number of the first input.
"""

from __future__ import annotations

import os
from typing import Final

from tests.support.effort import FULL, SEED

SCALE: Final = float(os.environ.get("FAULTS_SCALE", "10" if FULL else "1"))


def numbers(count: int) -> range:
    """Return the numbers of the inputs: *count* of them in a quick run."""
    first = int(os.environ.get("FUZZ_FROM", "0"))
    return range(first, first + int(count * SCALE))


def repeat(number: int) -> str:
    """Return what makes input *number* the first one of another run."""
    return f"FUZZ_SEED={SEED} FUZZ_FROM={number}"
