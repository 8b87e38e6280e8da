"""One round of a row that no contender's plain load measures: what it may use, and where it puts what it finds.

Rule 1: what fails is noted and left out in the rounds to come; the run goes on.
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
        run: Takes what is found.
        round: Counted from 0.
        seconds: Measured time of a point.
        warm_seconds: Time under the same load before it.
        places: What is measured of whom.
        say: Tells whoever waits.
        tries: How often a load is taken again at most, while other programs disturb it.
        instances: Makes the instances that rows need for themselves.
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
        """Return *cases* in this round's order, which turns round from one to the next."""
        return list(cases) if self.round % 2 == 0 else list(reversed(cases))

    def wants(self, point: str, contender: str = OURS) -> bool:
        """Say whether this is to be measured, and has not failed in a round before."""
        return (contender, point) in self.places and not {f"{contender}/{point}", contender} & self.run.absent.keys()

    @contextmanager
    def attempt(self, point: str | None, contender: str = OURS) -> Iterator[None]:
        """Note a failure inside, and go on after it; without a *point* all of the contender is left out."""
        try:
            yield
        except Exception as error:  # whatever it is: hours of other figures must not be lost with it
            reason = str(error).strip() or repr(error)
            place = f"{contender}/{point}" if point else contender
            self.run.absent[place] = reason
            self.say(f"  {place} left out: {reason.splitlines()[-1]}")

    def read(self, point: str, contender: str = OURS, **figures: float) -> None:
        """Keep figures that are in no sample; their names end with the unit."""
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
        """Warm up, load, and keep the sample; *pids* are those whose CPU time is counted.

        Taken again while other programs disturb it: the quietest counts, whatever its figures are.
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
        """Return what one load showed, and how late it was itself."""
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
