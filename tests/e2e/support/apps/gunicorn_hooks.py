"""gunicorn's hooks: its master says of itself, when it ends, what is in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.e2e.support.apps.facts import facts


def on_exit(server: object) -> None:
    """Write what the master has, to where MASTER_FACTS says."""
    if "MASTER_FACTS" in os.environ:
        Path(os.environ["MASTER_FACTS"]).write_text(json.dumps(facts()))
