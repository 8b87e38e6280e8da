"""How much a run does: EFFORT is "quick" in `make test` and `make ci`, and "full" in `make everything`.

The inputs of the fuzz tests, the sample of a quick run and the order of its tests come from one seed, which the head of
a run shows.

Rule: a change is judged by the change. A quick run is the same whenever the same code is tested by the same tests. A
full run has new inputs each time.
"""

from __future__ import annotations

import os
import subprocess
import zlib
from pathlib import Path
from random import SystemRandom
from typing import Final

FULL: Final = os.environ.get("EFFORT") == "full"
QUICK: Final = os.environ.get("EFFORT") == "quick"


def _seed_of_the_code() -> int:
    """Return a number that depends on the committed package and tests; without git, always the same number."""
    command = ["git", "rev-parse", "HEAD:serve_bridge", "HEAD:tests"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=False)
    except OSError:
        return 0
    return zlib.crc32(found.stdout)


# All workers of a run have one seed, since they inherit the environment.
SEED: Final = int(
    os.environ.setdefault("FUZZ_SEED", str(_seed_of_the_code() if QUICK else SystemRandom().getrandbits(32)))
)
