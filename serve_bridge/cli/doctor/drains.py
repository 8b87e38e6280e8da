"""Drains: the time that work needs to finish, and the time after which a service manager kills the process."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, warning

CHECK: Final = "drains"
SPARE_S: Final = 5.0
"""Seconds that an end needs beside the drain."""
DEFAULT_STOP_S: Final = 90.0
"""systemd's default of TimeoutStopSec, in seconds."""

_UNITS_S: Final = {
    **dict.fromkeys(("us", "usec"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
    **dict.fromkeys(("M", "month", "months"), 2629800.0),
    **dict.fromkeys(("y", "year", "years"), 31557600.0),
}
"""Units of a time span of systemd, in seconds."""


@dataclass(frozen=True)
class StopLimit:
    """The time that a service manager gives a process between SIGTERM and SIGKILL.

    Attributes:
        name: Its name, such as "TimeoutStopSec of web.service".
        seconds: The time; infinity: no limit.
    """

    name: str
    seconds: float


def check_drains(drains_s: Mapping[str, float], limits: list[StopLimit]) -> Iterator[Finding]:
    """Yield a finding for each drain that a limit cuts off. *drains_s* are seconds by name."""
    for limit in limits:
        for what, drain_s in drains_s.items():
            if limit.seconds < drain_s + SPARE_S:
                yield warning(
                    CHECK,
                    f"{what} may take {drain_s:g} s to finish its work, and {limit.name} ends it after "
                    f"{limit.seconds:g} s. Its last requests fail",
                    f"raise {limit.name} to {drain_s + SPARE_S:g} s or more, or lower the time of the drain",
                )


def stop_limit_of(unit: str, name: str) -> StopLimit:
    """Return the limit in the text of a systemd unit, called *name*.

    Raises:
        ValueError: The value of TimeoutStopSec is not a time span.
    """
    seconds = DEFAULT_STOP_S
    for line in unit.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and key in ("TimeoutStopSec", "TimeoutSec"):
            seconds = span_s(value) if value else DEFAULT_STOP_S
    return StopLimit(f"TimeoutStopSec of {name}", seconds)


def span_s(text: str) -> float:
    """Return a time span of systemd, such as "1min 30s", in seconds; "infinity" and 0 are no limit.

    Raises:
        ValueError: *text* is not a time span.
    """
    if text == "infinity":
        return math.inf
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if not parts or re.sub(r"\d+(?:\.\d+)?\s*[A-Za-z]*\s*", "", text) or any(unit not in _UNITS_S for _, unit in parts):
        raise ValueError(f"{text!r} is not a time span such as 90, 90s or 1min 30s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts) or math.inf
