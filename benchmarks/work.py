"""Row 8: a handler that really works, about 5 ms of NumPy on one core, and the same work called directly."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy

from benchmarks.calls import Calls
from benchmarks.contenders import Caller
from benchmarks.sites import BODY

VALUES: Final = numpy.linspace(0, 1000, 500_000)
_results: Final = numpy.empty_like(VALUES)


def work() -> bytes:
    """Work, then answer; no BLAS, which would take every core."""
    numpy.sin(VALUES, out=_results)
    return BODY


class Direct:
    """A loop that calls the handler: what a request costs at least. Lives in a stage."""

    url: str | None = None
    calls: Calls | None = Calls(call=work)
    caller: Caller | None = None

    def start(self, directory: Path) -> None:
        """Nothing needs to be up."""

    def stop(self) -> None:
        """Nothing is left behind."""
