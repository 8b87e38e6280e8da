"""Row 8: a handler with about 5 ms of NumPy work on one core, and a loop that calls the same work directly."""

from __future__ import annotations

from typing import Final

import numpy

from benchmarks import BODY
from benchmarks.contenders.contender import Contender
from benchmarks.load.calls import Calls

VALUES: Final = numpy.linspace(0, 1000, 500_000)
_results: Final = numpy.empty_like(VALUES)


def work() -> bytes:
    """Work, then answer. The work avoids BLAS, which would use every core."""
    numpy.sin(VALUES, out=_results)
    return BODY


class Direct(Contender):
    """A loop over the handler, in a stage: the lower limit for the cost of a request."""

    calls = Calls(call=work)
