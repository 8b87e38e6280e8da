"""Row 8: a handler that really works, about 5 ms of NumPy on one core, and the same work called directly."""

from __future__ import annotations

from typing import Final

import numpy

from benchmarks import BODY
from benchmarks.contenders.contender import Contender
from benchmarks.load.calls import Calls

VALUES: Final = numpy.linspace(0, 1000, 500_000)
_results: Final = numpy.empty_like(VALUES)


def work() -> bytes:
    """Work, then answer; no BLAS, which would take every core."""
    numpy.sin(VALUES, out=_results)
    return BODY


class Direct(Contender):
    """A loop that calls the handler: what a request costs at least. Lives in a stage."""

    calls = Calls(call=work)
