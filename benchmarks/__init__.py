"""Measure serve_bridge beside its peers: `python -m benchmarks` prints the tables of `docs/benchmarks.md`.

Rule 1: figures are compared within one run on one machine only, each round with the same round.
Rule 2: every contender answers the same constant from an `async def` handler, in processes of its own.
Rule 3: contenders run one at a time. An idle Ray Serve keeps using CPU, so on a small machine a waiting contender
    would slow the contender under load. Each contender therefore starts again in every round.
Rule 4: every round reverses the order of the round before (A B C, C B A, ...). So a drift of the machine favours no
    contender.

Imports go one way: `reports`, `rows`, `trial`, `contenders`, `load`. The file `results` holds the measured figures:
`trial` writes them, and `reports` reads them.
"""

from typing import Final

BODY: Final = b"ok"
"""The answer of every contender to a request without a body."""
