"""Measured samples, their spread over rounds, and the file they are kept in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.footprint import Footprint

QUIET_CORES = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of one contender in one round.

    Attributes:
        round: Counted from 0.
        contender: Key of the contender.
        point: Key of the point.
        requests_per_s: Answers a second.
        p50_ms: Median latency in milliseconds.
        p99_ms: The same at 99 %.
        cpu_s_per_1000: CPU seconds of all processes of the contender for 1,000 answers.
        foreign_cores: Cores that other programs kept busy meanwhile; not to be trusted above `QUIET_CORES`.
        errors: Requests without a good answer.
    """

    round: int
    contender: str
    point: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    foreign_cores: float
    errors: int


Figure = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread | None:
    """Return the spread of *values*, None of no values."""
    return Spread(median(values), min(values), max(values)) if values else None


@dataclass(slots=True)
class Run:
    """Everything one run measured.

    Attributes:
        machine: What it ran on, without names or paths.
        settings: Rounds, seconds a point, load generator, date.
        samples: In the order they were measured.
        absent: Contender, or contender/point, to the reason why it was not measured or not to the end.
        footprints: What the bridge adds to web workers, a framework each.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    samples: list[Sample] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    footprints: list[Footprint] = field(default_factory=list)

    def of(self, contender: str, point: str) -> list[Sample]:
        """Return the samples of one contender at one point, a round each."""
        return [sample for sample in self.samples if (sample.contender, sample.point) == (contender, point)]

    def spread(self, contender: str, point: str, figure: Figure) -> Spread | None:
        """Return a figure's spread over the rounds, None if it was not measured."""
        return spread([figure(sample) for sample in self.of(contender, point)])

    def ratio(self, one: str, other: str, point: str, figure: Figure) -> Spread | None:
        """Return *one*'s figure divided by *other*'s, round by round; None if no round has both."""
        return spread([mine / theirs for mine, theirs in self._pairs(one, other, point, figure) if theirs])

    def difference(self, one: str, other: str, point: str, figure: Figure) -> Spread | None:
        """Return *one*'s figure less *other*'s, round by round; None if no round has both."""
        return spread([mine - theirs for mine, theirs in self._pairs(one, other, point, figure)])

    def _pairs(self, one: str, other: str, point: str, figure: Figure) -> list[tuple[float, float]]:
        others = {sample.round: figure(sample) for sample in self.of(other, point)}
        return [(figure(s), others[s.round]) for s in self.of(one, point) if s.round in others]

    def write(self, path: Path) -> None:
        """Keep the run as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """Return the run that `write` kept."""
        kept = json.loads(path.read_text())
        samples = [Sample(**sample) for sample in kept["samples"]]
        footprints = [Footprint(**each) for each in kept.get("footprints", ())]
        return cls(**kept | {"samples": samples, "footprints": footprints})
