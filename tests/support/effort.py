"""How much a run does: EFFORT is "quick" in `make test` and `make ci`, and "full" in `make everything`.

Both the inputs of the fuzz tests and the sample of a quick run come from one seed, which the head of a run shows.
"""

from __future__ import annotations

import os
from random import SystemRandom
from typing import Final

FULL: Final = os.environ.get("EFFORT") == "full"
QUICK: Final = os.environ.get("EFFORT") == "quick"

# All workers of a run have one seed, since they inherit the environment.
SEED: Final = int(os.environ.setdefault("FUZZ_SEED", str(SystemRandom().getrandbits(32))))
