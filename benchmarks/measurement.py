"""Rounds: each contender is started, loaded at every point and stopped, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from benchmarks import processes, web_load
from benchmarks.calls import Timing
from benchmarks.contenders import ENTRIES
from benchmarks.results import QUIET_CORES, Run, Sample
from benchmarks.rows import Point
from benchmarks.stage import Stage, StageError

TRIES = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure and for how long.

    Attributes:
        contenders: Keys, in the order of the even rounds.
        points: In the order they are loaded.
        rounds: How often each contender is started and loaded.
        seconds: Measured time of each point.
        warm_seconds: Time under the same load before it.
    """

    contenders: Sequence[str]
    points: Sequence[Point]
    rounds: int
    seconds: float
    warm_seconds: float


def measure(plan: Plan, run: Run, say: Callable[[str], None]) -> None:
    """Carry out *plan* and add what it finds to *run*; what fails is left out from then on."""
    for number in range(plan.rounds):
        order = plan.contenders if number % 2 == 0 else list(reversed(plan.contenders))
        for name in order:
            if name in run.absent or not any(point.views == (ENTRIES[name].plain is not None) for point in plan.points):
                continue
            say(f"round {number + 1} of {plan.rounds}: {ENTRIES[name].label}")
            with _left_out_on_failure(run, name, say):
                _visit(plan, number, name, run, say)


@contextmanager
def _left_out_on_failure(run: Run, place: str, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except (StageError, web_load.WebLoadError) as error:
        run.absent[place] = str(error)
        say(f"  {place} left out: {str(error).strip().splitlines()[-1]}")


def _visit(plan: Plan, number: int, name: str, run: Run, say: Callable[[str], None]) -> None:
    stage = Stage(ENTRIES[name])
    try:
        if stage.url is not None:
            web_load.wait_until_answering(stage.url)
        for point in plan.points:
            place = f"{name}/{point.name}"
            if place in run.absent or point.views != (ENTRIES[name].plain is not None):
                continue
            with _left_out_on_failure(run, place, say):
                load = _loader(stage, point)
                if load is None:
                    continue
                load(plan.warm_seconds)
                sample = _undisturbed(partial(_sample, number, name, point, stage, partial(load, plan.seconds)))
                run.samples.append(sample)
                say(f"  {point.name}: {sample.requests_per_s:,.0f}/s, p50 {sample.p50_ms:.3g} ms")
    finally:
        stage.stop()


def _loader(stage: Stage, point: Point) -> Callable[[float], Timing] | None:
    kind = point.kind
    if kind != "http":
        return (lambda seconds: stage.load(kind, point.concurrency, seconds)) if stage.offers(kind) else None
    url = stage.url
    if url is None:
        return None
    concurrency, fresh = point.concurrency, point.new_connections
    return lambda seconds: web_load.load(url, concurrency, seconds, new_connections=fresh)


def _undisturbed(take: Callable[[], Sample]) -> Sample:
    """Take a sample again while other programs disturb it; the quietest counts, whatever its figures are."""
    samples = [take()]
    while samples[-1].foreign_cores > QUIET_CORES and len(samples) < TRIES:
        samples.append(take())
    return min(samples, key=lambda sample: sample.foreign_cores)


def _sample(number: int, name: str, point: Point, stage: Stage, load: Callable[[], Timing]) -> Sample:
    serving = processes.cpu_seconds(stage.serving_pids())
    others = processes.machine_cpu_seconds() - processes.load_cpu_seconds()
    began = perf_counter()
    timing = load()
    elapsed = perf_counter() - began
    others = processes.machine_cpu_seconds() - processes.load_cpu_seconds() - others
    now = processes.cpu_seconds(stage.serving_pids())
    used = sum(seconds - serving.get(pid, 0.0) for pid, seconds in now.items())
    return Sample(
        round=number,
        contender=name,
        point=point.name,
        requests_per_s=timing.requests / timing.seconds,
        p50_ms=timing.p50_ms,
        p99_ms=timing.p99_ms,
        cpu_s_per_1000=used / timing.requests * 1000,
        foreign_cores=max(0.0, (others - used) / elapsed),
        errors=timing.errors,
    )
