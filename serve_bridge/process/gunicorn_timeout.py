"""The time after which gunicorn kills a silent worker."""

from __future__ import annotations

import math
import os
import shlex
from itertools import pairwise
from typing import Final

DEFAULT_S: Final = 30.0
"""Default of gunicorn's option `--timeout`, in seconds."""
HINT: Final = (
    "lower timeout_s, or give gunicorn a longer --timeout; a check reads --timeout from GUNICORN_CMD_ARGS only, "
    "not from gunicorn's command line or configuration file"
)
"""Advice for a route with a longer timeout."""

_NAMES: Final = ("-t", "--timeout")


def gunicorn_timeout_s() -> float:
    """Return the `--timeout` in the environment variable GUNICORN_CMD_ARGS, otherwise gunicorn's default.

    A timeout of 0 switches gunicorn's limit off: it is infinity.
    """
    found = DEFAULT_S
    try:
        words = shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))
    except ValueError:  # a quote is not closed, so gunicorn itself will not start
        return found
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        text = (value if equals else following) if name in _NAMES else word[2:] if word[:2] == "-t" else ""
        if text.isdecimal():
            found = float(text) or math.inf
    return found
