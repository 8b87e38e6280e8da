"""Threads of simulated processes, which a simulated kill leaves behind; a real one would take them along."""

from __future__ import annotations

import threading
from typing import Final

ABANDONED: Final[set[threading.Thread]] = set()
