"""Row 9: CPU time and memory added by the bridge to a web worker before its first request.

A fresh interpreter creates each app of `web_apps`, with and without the bridge in turn. The lowest of several tries
counts, because disturbances only add to the figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.results import Footprint

TRIES: Final = 9
APPS: Final[Mapping[str, tuple[str, str]]] = {
    "Flask": ("flask_plain", "flask_bridged"),
    "Django, WSGI": ("django_plain", "django_bridged"),
    "Django, ASGI": ("async_django_plain", "async_django_bridged"),
    "Starlette": ("starlette_plain", "starlette_bridged"),
}
_PROGRAM: Final = """
import json, sys, time
from pathlib import Path
from benchmarks.contenders import web_apps
web_apps.{app}()
seconds = time.process_time()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps([seconds, int(status["VmHWM"].split()[0]) / 1024, "ray" in sys.modules]))
"""


def measure(tries: int = TRIES) -> list[Footprint]:
    """Return the footprint in each framework, the lowest of *tries* tries."""
    return [_footprint(app, plain, bridged, tries) for app, (plain, bridged) in APPS.items()]


def _footprint(app: str, plain: str, bridged: str, tries: int) -> Footprint:
    runs: dict[str, list[tuple[float, float, bool]]] = {plain: [], bridged: []}
    for _ in range(tries):
        for name, found in runs.items():
            found.append(_run(name))
    seconds, mib = ({name: min(run[i] for run in found) for name, found in runs.items()} for i in (0, 1))
    return Footprint(
        app,
        seconds[plain],
        seconds[bridged] - seconds[plain],
        mib[plain],
        mib[bridged] - mib[plain],
        any(run[2] for run in runs[bridged]),
    )


def _run(app: str) -> tuple[float, float, bool]:
    command = [sys.executable, "-c", _PROGRAM.format(app=app)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    seconds, mib, imports_ray = json.loads(done.stdout)
    return seconds, mib, imports_ray


def lines(footprints: Sequence[Footprint]) -> Iterator[str]:
    """Yield a table of *footprints*."""
    yield "| web worker | CPU s to create it | added (at most 0.15) | MiB | added (at most 15) | Ray imported | |"
    yield "|---|---|---|---|---|---|---|"
    for each in footprints:
        word = "cleared" if each.cleared else "**missed**"
        ray = "yes" if each.imports_ray else "no"
        figures = f"{each.plain_s:.3f} | {each.added_s:.3f} | {each.plain_mib:.1f} | {each.added_mib:.1f}"
        yield f"| {each.app} | {figures} | {ray} | {word} |"
