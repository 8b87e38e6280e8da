"""HTTP load in a closed loop: wrk where it is installed, else this package's own client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.calls import Timing
from benchmarks.contenders import BODY

WRK_REPORT = Path(__file__).with_name("wrk_report.lua")


class WebLoadError(RuntimeError):
    """The server did not answer well, or the load generator failed."""


def generator() -> str:
    """Name the load generator that `load` uses on this machine."""
    return "wrk" if shutil.which("wrk") else "own asyncio client"


def wait_until_answering(url: str, *, limit_s: float = 60.0) -> None:
    """Return when *url* answers GET with the body every contender gives.

    Raises:
        WebLoadError: It does not within *limit_s* seconds; the message holds the last answer.
    """
    end = time.monotonic() + limit_s
    last = "no answer"
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body = answer.read()
            if body == BODY:
                return
            last = f"body {body[:80]!r}"
        except (OSError, urllib.error.URLError) as error:
            last = str(error)
        time.sleep(0.05)  # a server that is still starting has nothing to wait on but its port
    raise WebLoadError(f"{url} is not ready: {last}")


def load(url: str, connections: int, seconds: float, *, new_connections: bool = False) -> Timing:
    """Send GETs over *connections* connections for *seconds*, each with a fresh connection if asked to.

    Raises:
        WebLoadError: The load generator failed, or no answer was a good one.
    """
    command = (_wrk if shutil.which("wrk") else _own)(url, connections, seconds, new_connections)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    except subprocess.TimeoutExpired as silent:
        raise WebLoadError(f"no end of the load of {url}") from silent
    if done.returncode:
        raise WebLoadError(done.stderr[-500:] or done.stdout[-500:])
    found = json.loads(done.stdout.splitlines()[-1])
    if not found["requests"]:
        raise WebLoadError(f"none of {found['errors']} requests to {url} had a good answer")
    return Timing(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        errors=found["errors"],
    )


def _wrk(url: str, connections: int, seconds: float, new_connections: bool) -> list[str]:
    close = ["-H", "Connection: close"] if new_connections else []
    whole = max(1, round(seconds))  # wrk takes whole seconds only
    options = ["-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s", "-s", str(WRK_REPORT)]
    return ["wrk", *options, *close, url]


def _own(url: str, connections: int, seconds: float, new_connections: bool) -> list[str]:
    close = ["--new-connections"] if new_connections else []
    options = ["--connections", str(connections), "--seconds", str(seconds), *close]
    return [sys.executable, "-m", "benchmarks.closed_loop", url, *options]
