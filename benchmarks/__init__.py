"""Measures serve_bridge beside its peers: `python -m benchmarks` prints the tables of `docs/benchmarks.md`.

Rule 1: figures are compared within one run on one machine only, round against the same round.
Rule 2: every contender answers the same constant from an `async def` handler, in processes of its own.
Rule 3: contenders are up one at a time. An idle Ray Serve keeps using CPU, so on a small machine one that
    merely waits would slow the one under load. Starting each again in every round costs time; it is fair.
Rule 4: the order turns round in every round (A B C, C B A, ...): a drift of the machine favours nobody.
"""

from typing import Final

BODY: Final = b"ok"
"""What every contender answers to a request that asks for nothing else."""
