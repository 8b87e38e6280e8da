"""Rounds: one contender after another starts, gets every load of its kinds, and stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urljoin

from benchmarks.contenders.contender import Entry
from benchmarks.contenders.entries import CALLS, ENTRIES, POST
from benchmarks.contenders.instances import Instances
from benchmarks.contenders.stage import Stage, StageError
from benchmarks.load import body_load, web_load
from benchmarks.load.calls import Kind, Timing
from benchmarks.results import Place, Run
from benchmarks.rows import memory
from benchmarks.rows.points import Point
from benchmarks.trial import TRIES, Trial

PATHS = {"upload": "/sink", "download": "/flow"}  # other kinds have a path of their own name
PEAK = "http-64"


@dataclass(frozen=True, slots=True)
class Plan:
    """The contenders, the loads and their durations.

    Attributes:
        contenders: Keys, in the order of the even rounds.
        points: The loads, in the order of the measurement.
        places: The pairs of contender and point to measure.
        rounds: Number of times each contender starts.
        seconds: Measured time of each point.
        warm_seconds: Time under the same load before the measurement.
        rows: Rows with code of their own, measured in each round after the points.
        tries: Upper limit for measurements of one load while other programs disturb it.
    """

    contenders: Sequence[str]
    points: Sequence[Point]
    places: Collection[Place]
    rounds: int
    seconds: float
    warm_seconds: float
    rows: Sequence[Callable[[Trial], None]] = ()
    tries: int = TRIES


def measure(plan: Plan, run: Run, say: Callable[[str], None]) -> None:
    """Carry out *plan* and add its figures to *run*. A failed point is left out of later rounds."""
    for number in range(plan.rounds):
        with Instances() as instances:
            trial = Trial(run, number, plan.seconds, plan.warm_seconds, plan.places, say, plan.tries, instances)
            _visit_all(plan, trial)
            for row in plan.rows:
                row(trial)


def _visit_all(plan: Plan, trial: Trial) -> None:
    for name in trial.ordered(plan.contenders):
        loaded = [point for point in plan.points if point.kind in ENTRIES[name].kinds]
        points = [point for point in loaded if trial.wants(point.name, name)]
        if not points:
            continue
        trial.say(f"round {trial.round + 1} of {plan.rounds}: {ENTRIES[name].label}")
        with trial.attempt(None, name):
            _visit(trial, ENTRIES[name], points)


def _visit(trial: Trial, entry: Entry, points: Sequence[Point]) -> None:
    stage = Stage(entry)
    try:
        if stage.url is not None:
            web_load.wait_until_answering(stage.url, post=entry.kinds == POST)
        for point in points:
            with trial.attempt(point.name, entry.name):
                _measure(trial, entry, point, stage)
    finally:
        stage.stop()


def _measure(trial: Trial, entry: Entry, point: Point, stage: Stage) -> None:
    if point.kind == "memory":
        time.sleep(memory.SETTLE_S)
        held = memory.by_role(entry.name, stage.serving_pids())
        trial.read(point.name, entry.name, **{f"rss_{role}_mib": mib for role, mib in held.items()})
    elif point.kind in ("upload", "download"):
        send = body_load.upload if point.kind == "upload" else body_load.download
        with memory.growth(stage.serving_pids()) as peak:
            seconds = send(_url(stage, point), point.body_bytes)
        rate = point.body_bytes / memory.MIB / seconds
        trial.read(point.name, entry.name, mib_per_s=rate, growth_mib=peak.mib)
    else:
        trial.load(point.name, stage.serving_pids, _loader(trial, entry, point, stage), entry.name)


def _loader(trial: Trial, entry: Entry, point: Point, stage: Stage) -> Callable[[float], Timing]:
    kind, count = point.kind, point.concurrency
    if kind in CALLS:
        way = cast(Kind, kind)
        return lambda seconds: stage.load(way, count, seconds)
    if kind == "work" and stage.url is None:
        return lambda seconds: stage.load("call", 1, seconds)  # the loop is the only caller
    url = _url(stage, point)
    if kind in ("events", "websocket"):
        return lambda seconds: web_load.stream(kind, url, count, seconds)
    if kind == "open":
        peak = trial.run.values(entry.name, PEAK, "requests_per_s").get(trial.round)
        if peak is None:
            raise StageError(f"no peak: measure {PEAK} before")
        rate = peak / 2
        return lambda seconds: web_load.open_loop(url, count, seconds, rate)
    fresh, length = point.new_connections, point.body_bytes
    if kind == "echo":
        web_load.check_echo(url, length)
    return lambda seconds: web_load.load(url, count, seconds, new_connections=fresh, body_bytes=length)


def _url(stage: Stage, point: Point) -> str:
    if stage.url is None:
        raise StageError("no HTTP side")
    if point.kind in ("http", "open", "post", "view"):
        return stage.url
    path = urljoin(stage.url, PATHS.get(point.kind, f"/{point.kind}"))
    query = {"download": f"?bytes={point.body_bytes}", "events": f"?pause_s={point.pause_s}"}
    return path + query.get(point.kind, "")
