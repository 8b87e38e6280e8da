"""Measured samples, their spread over rounds, and the file they are kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

QUIET_CORES: Final = 0.1
MOST_SECONDS: Final = 0.15
MOST_MIB: Final = 15.0

Place = tuple[str, str]
"""Who and where: key of a contender, key of a point."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of one contender in one round.

    Attributes:
        round: Counted from 0.
        contender: Key of the contender.
        point: Key of the point.
        requests_per_s: Answers a second.
        p50_ms: Median latency in milliseconds, None of a load whose answers have none of their own.
        p99_ms: The same at 99 %.
        cpu_s_per_1000: CPU seconds of all processes of the contender for 1,000 answers.
        foreign_cores: Cores that other programs kept busy meanwhile; not to be trusted above `QUIET_CORES`.
        errors: Requests without a good answer.
    """

    round: int
    contender: str
    point: str
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_s_per_1000: float
    foreign_cores: float
    errors: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure that no sample has: memory, a share, a time to start.

    Attributes:
        round: Counted from 0.
        contender: Key of the contender.
        point: Key of the point.
        figure: Key of the figure, with its unit: `rss_replica_mib`.
        value: In that unit.
    """

    round: int
    contender: str
    point: str
    figure: str
    value: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the bridge adds to one app.

    Attributes:
        app: Which.
        plain_s: CPU seconds until the app without the bridge is there.
        added_s: How many more it takes with it.
        plain_mib: Peak memory of the app without the bridge.
        added_mib: How much more with it.
        imports_ray: Whether Ray was imported.
    """

    app: str
    plain_s: float
    added_s: float
    plain_mib: float
    added_mib: float
    imports_ray: bool

    @property
    def cleared(self) -> bool:
        """Whether it is within what is promised."""
        return self.added_s <= MOST_SECONDS and self.added_mib <= MOST_MIB and not self.imports_ray


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
        readings: Figures that are in no sample, in the same order.
        absent: Contender, or contender/point, to the reason why it was not measured or not to the end.
        footprints: What the bridge adds to web workers, a framework each.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    samples: list[Sample] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    footprints: list[Footprint] = field(default_factory=list)

    def of(self, contender: str, point: str) -> list[Sample]:
        """Return the samples of one contender at one point, a round each."""
        return [sample for sample in self.samples if (sample.contender, sample.point) == (contender, point)]

    def values(self, contender: str, point: str, figure: str) -> dict[int, float]:
        """Return what a figure, a sample's or a reading's, was in each round that has it."""
        found = {sample.round: getattr(sample, figure, None) for sample in self.of(contender, point)}
        place = (contender, point, figure)
        found |= {one.round: one.value for one in self.readings if (one.contender, one.point, one.figure) == place}
        return {number: value for number, value in found.items() if value is not None}

    def spread(self, contender: str, point: str, figure: str) -> Spread | None:
        """Return a figure's spread over the rounds, None if it was not measured."""
        return spread(list(self.values(contender, point, figure).values()))

    def ratio(self, one: Place, other: Place, figure: str) -> Spread | None:
        """Return the figure at *one* divided by that at *other*, round by round; None if no round has both."""
        return spread([mine / theirs for mine, theirs in self._pairs(one, other, figure) if theirs])

    def difference(self, one: Place, other: Place, figure: str) -> Spread | None:
        """Return the figure at *one* less that at *other*, round by round; None if no round has both."""
        return spread([mine - theirs for mine, theirs in self._pairs(one, other, figure)])

    def _pairs(self, one: Place, other: Place, figure: str) -> list[tuple[float, float]]:
        others = self.values(*other, figure)
        return [(mine, others[number]) for number, mine in self.values(*one, figure).items() if number in others]

    def write(self, path: Path) -> None:
        """Keep the run as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """Return the run that `write` kept."""
        kept = json.loads(path.read_text())
        samples = [Sample(**sample) for sample in kept["samples"]]
        readings = [Reading(**reading) for reading in kept.get("readings", ())]
        footprints = [Footprint(**each) for each in kept.get("footprints", ())]
        return cls(**kept | {"samples": samples, "readings": readings, "footprints": footprints})
