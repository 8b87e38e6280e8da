"""One round of a measurement: its settings, and the methods by which rows record their figures.

Rule 1: a failure is recorded, and the failed point is left out of later rounds. The run continues.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, TypeVar

from benchmarks.contenders import processes
from benchmarks.contenders.entries import OURS
from benchmarks.contenders.instances import Instances
from benchmarks.load.calls import Timing
from benchmarks.results import QUIET_CORES, Place, Reading, Run, Sample

TRIES: Final = 3

_Case = TypeVar("_Case")


@dataclass(frozen=True, slots=True)
class Trial:
    """One round.

    Attributes:
        run: Receives the figures.
        round: Counted from 0.
        seconds: Measured time of a point.
        warm_seconds: Time under the same load before the measurement.
        places: The pairs of contender and point to measure.
        say: Prints a line about the progress.
        tries: Upper limit for measurements of one load while other programs disturb it.
        instances: Starts instances for the rows with code of their own.
    """

    run: Run
    round: int
    seconds: float
    warm_seconds: float
    places: Collection[Place]
    say: Callable[[str], None]
    tries: int = TRIES
    instances: Instances = field(default_factory=Instances)

    def ordered(self, cases: Sequence[_Case]) -> list[_Case]:
        """Return *cases* in this round's order, which is the reverse of the round before."""
        return list(cases) if self.round % 2 == 0 else list(reversed(cases))

    def wants(self, point: str, contender: str = OURS) -> bool:
        """Return whether the plan has this point, and no earlier round failed at it."""
        return (contender, point) in self.places and not {f"{contender}/{point}", contender} & self.run.absent.keys()

    @contextmanager
    def attempt(self, point: str | None, contender: str = OURS) -> Iterator[None]:
        """Record a failure inside and continue after it. Without a *point*, the whole contender is left out."""
        try:
            yield
        except Exception as error:  # any failure: it must not cost the figures of hours
            reason = str(error).strip() or repr(error)
            place = f"{contender}/{point}" if point else contender
            self.run.absent[place] = reason
            self.say(f"  {place} left out: {reason.splitlines()[-1]}")

    def read(self, point: str, contender: str = OURS, **figures: float) -> None:
        """Record figures outside of any sample. Their names end with the unit."""
        for figure, value in figures.items():
            self.run.readings.append(Reading(self.round, contender, point, figure, value))
        told = ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
        self.say(f"  {contender} at {point}: {told}")

    def load(
        self,
        point: str,
        pids: Callable[[], Collection[int]],
        load: Callable[[float], Timing],
        contender: str = OURS,
    ) -> Sample:
        """Warm up, load, and record the sample. The CPU time of the processes *pids* is counted.

        The load is repeated while other programs disturb it. The sample with the least disturbance counts, whatever its
        figures are.
        """
        load(self.warm_seconds)
        taken = [self._sample(point, pids, load, contender)]
        while taken[-1][0].foreign_cores > QUIET_CORES and len(taken) < self.tries:
            taken.append(self._sample(point, pids, load, contender))
        found, lag_ms = min(taken, key=lambda one: one[0].foreign_cores)
        self.run.samples.append(found)
        self.say(f"  {contender} at {point}: {found.requests_per_s:,.0f}/s, {found.cpu_s_per_1000:.3g} CPU s / 1,000")
        if lag_ms is not None:
            self.read(point, contender, lag_ms=lag_ms)
        return found

    def _sample(
        self, point: str, pids: Callable[[], Collection[int]], load: Callable[[float], Timing], contender: str
    ) -> tuple[Sample, float | None]:
        """Return the sample of one load, and the delay of the load generator itself."""
        serving = processes.cpu_seconds(pids())
        others = processes.machine_cpu_seconds() - processes.load_cpu_seconds()
        began = perf_counter()
        timing = load(self.seconds)
        elapsed = perf_counter() - began
        others = processes.machine_cpu_seconds() - processes.load_cpu_seconds() - others
        now = processes.cpu_seconds(pids())
        used = sum(seconds - serving.get(pid, 0.0) for pid, seconds in now.items())
        sample = Sample(
            round=self.round,
            contender=contender,
            point=point,
            requests_per_s=timing.requests / timing.seconds,
            p50_ms=timing.p50_ms,
            p99_ms=timing.p99_ms,
            cpu_s_per_1000=used / timing.requests * 1000,
            foreign_cores=max(0.0, (others - used) / elapsed),
            errors=timing.errors,
        )
        return sample, timing.lag_ms
