"""Measured samples, their spread over rounds, and the file of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

QUIET_CORES: Final = 0.1
"""Upper limit for cores kept busy by other programs during a reliable sample."""
MOST_SECONDS: Final = 0.15
"""Upper limit for the CPU seconds added by the bridge to the start of a web worker."""
MOST_MIB: Final = 15.0
"""Upper limit for the memory added by the bridge to a web worker, in MiB."""

Place = tuple[str, str]
"""Key of a contender, key of a point."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of one contender in one round.

    Attributes:
        round: Counted from 0.
        contender: Key of the contender.
        point: Key of the point.
        requests_per_s: Answers a second.
        p50_ms: Median latency in milliseconds. None for events, which have no latency of their own.
        p99_ms: 99th percentile of the latency in milliseconds.
        cpu_s_per_1000: CPU seconds of all processes of the contender for 1,000 answers.
        foreign_cores: Cores kept busy by other programs during the load. A sample above `QUIET_CORES` is not reliable.
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
    """One figure outside of any sample: memory, a share, a time to start.

    Attributes:
        round: Counted from 0.
        contender: Key of the contender.
        point: Key of the point.
        figure: Key of the figure, with its unit: `rss_replica_mib`.
        value: The figure, in the unit of its key.
    """

    round: int
    contender: str
    point: str
    figure: str
    value: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """The CPU time and memory added by the bridge to one app.

    Attributes:
        app: Name of the framework.
        plain_s: CPU seconds to create the app without the bridge.
        added_s: CPU seconds added by the bridge.
        plain_mib: Peak memory of the app without the bridge, in MiB.
        added_mib: Memory added by the bridge, in MiB.
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
        """Whether the figures keep the promised limits."""
        return self.added_s <= MOST_SECONDS and self.added_mib <= MOST_MIB and not self.imports_ray


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread | None:
    """Return the spread of *values*, or None without values."""
    return Spread(median(values), min(values), max(values)) if values else None


@dataclass(slots=True)
class Run:
    """All figures of one run.

    Attributes:
        machine: The description of the machine, without names or paths.
        settings: Rounds, seconds a point, load generator, date.
        samples: In the order of the measurement.
        readings: Figures outside of any sample, in the order of the measurement.
        absent: Contender, or contender/point, to the reason of an incomplete measurement.
        footprints: The CPU time and memory added by the bridge to a web worker, one for each framework.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    samples: list[Sample] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    footprints: list[Footprint] = field(default_factory=list)

    def of(self, contender: str, point: str) -> list[Sample]:
        """Return the samples of one contender at one point, one for each round."""
        return [sample for sample in self.samples if (sample.contender, sample.point) == (contender, point)]

    def values(self, contender: str, point: str, figure: str) -> dict[int, float]:
        """Return a figure of a sample or of a reading by round. Rounds without the figure are left out."""
        found = {sample.round: getattr(sample, figure, None) for sample in self.of(contender, point)}
        place = (contender, point, figure)
        found |= {one.round: one.value for one in self.readings if (one.contender, one.point, one.figure) == place}
        return {number: value for number, value in found.items() if value is not None}

    def spread(self, contender: str, point: str, figure: str) -> Spread | None:
        """Return a figure's spread over the rounds, or None if it was not measured."""
        return spread(list(self.values(contender, point, figure).values()))

    def ratio(self, one: Place, other: Place, figure: str) -> Spread | None:
        """Return the ratio of the figure at *one* to the figure at *other* by round, or None if no round has both."""
        return spread([mine / theirs for mine, theirs in self._pairs(one, other, figure) if theirs])

    def difference(self, one: Place, other: Place, figure: str) -> Spread | None:
        """Return the figure at *one* minus the figure at *other* by round, or None if no round has both."""
        return spread([mine - theirs for mine, theirs in self._pairs(one, other, figure)])

    def _pairs(self, one: Place, other: Place, figure: str) -> list[tuple[float, float]]:
        others = self.values(*other, figure)
        return [(mine, others[number]) for number, mine in self.values(*one, figure).items() if number in others]

    def write(self, path: Path) -> None:
        """Write the run as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """Return the run in a file of `write`."""
        kept = json.loads(path.read_text())
        samples = [Sample(**sample) for sample in kept["samples"]]
        readings = [Reading(**reading) for reading in kept.get("readings", ())]
        footprints = [Footprint(**each) for each in kept.get("footprints", ())]
        return cls(**kept | {"samples": samples, "readings": readings, "footprints": footprints})
