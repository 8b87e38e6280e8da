"""How much work a run does: the quick one of `make test`, or the full one of `.ci/run`, which sets FULL."""

from __future__ import annotations

import os
from typing import Final

FULL: Final = bool(os.environ.get("FULL"))
"""Whether this run does everything."""
