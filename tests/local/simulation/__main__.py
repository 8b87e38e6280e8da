"""Many runs of the simulation: `python -m tests.local.simulation --help`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from tests.local.simulation.support.world import World


def main() -> int:
    """Make the runs, print what is wrong in them, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.local.simulation", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seeds", type=int, default=100, help="(default: 100)")
    parser.add_argument("--steps", type=int, default=200, help="(default: 200)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so many seconds")
    parser.add_argument("--gentle", action="store_true", help="only changes, and crashes of the controller")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    outcomes: Counter[str] = Counter()
    began, seeds, failed, steps = time.perf_counter(), 0, 0, 0
    for seed in range(asked.first, asked.first + asked.seeds):
        if time.perf_counter() - began > asked.seconds:
            break
        found = World(seed, asked.gentle).play(asked.steps)
        seeds += 1
        steps += found.steps
        outcomes.update(f"{outcome.status} {outcome.executed}".strip() for outcome in found.run.outcomes)
        if found.problems:
            failed += 1
            print(f"SIMULATION_SEED={seed} SIMULATION_STEPS={asked.steps}: {found.problems}", flush=True)
    print(f"{seeds} seeds, {failed} failed; {steps} steps of processes; answers {dict(outcomes.most_common())}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
