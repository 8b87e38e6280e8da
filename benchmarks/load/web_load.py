"""HTTP load: in a closed loop by wrk where it is installed, else by this package's own clients."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

from benchmarks import BODY
from benchmarks.load.calls import Timing

REPOSITORY = Path(__file__).resolve().parents[2]
WRK_REPORT = Path(__file__).with_name("wrk_report.lua")


class WebLoadError(RuntimeError):
    """The server did not answer well, or the load generator failed."""


def generator() -> str:
    """Name the load generator that `load` uses on this machine."""
    return "wrk" if shutil.which("wrk") else "own asyncio client"


def wait_until_answering(url: str, *, post: bool = False, limit_s: float = 60.0) -> None:
    """Return when *url* answers GET, or POST, with the body every contender gives.

    Raises:
        WebLoadError: It does not within *limit_s* seconds; the message holds the last answer.
    """
    end = time.monotonic() + limit_s
    last = "no answer"
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, BODY if post else None, timeout=5) as answer:
                body = answer.read()
            if body == BODY:
                return
            last = f"body {body[:80]!r}"
        except (OSError, urllib.error.URLError) as error:
            last = str(error)
        time.sleep(0.05)  # a server that is still starting has nothing to wait on but its port
    raise WebLoadError(f"{url} is not ready: {last}")


def check_echo(url: str, length: int) -> None:
    """Return if *url* gives a body of *length* bytes back as it was.

    Raises:
        WebLoadError: It does not.
    """
    body = b"1" * length
    try:
        with urllib.request.urlopen(url, body, timeout=30) as answer:
            echo = answer.read()
    except OSError as error:
        raise WebLoadError(f"no echo from {url}: {error}") from error
    if echo != body:
        raise WebLoadError(f"{url} gave {len(echo)} other bytes back for {length}")


def load(
    url: str,
    connections: int,
    seconds: float,
    *,
    new_connections: bool = False,
    endpoints: int | None = None,
    body_bytes: int = 0,
) -> Timing:
    """Send GETs over *connections* connections for *seconds*, each with a fresh connection if asked to.

    With *endpoints*, the numbers from 0 up to that one are added to *url* in turn; with *body_bytes*, POSTs are sent.

    Raises:
        WebLoadError: The load generator failed, or no answer was a good one.
    """
    command = (_wrk if shutil.which("wrk") else _own)(url, connections, seconds, new_connections)
    settings = {"endpoints": endpoints, "body": body_bytes}
    asked = [f"{name}={value}" for name, value in settings.items() if value]
    return run([*command, *(["--", *asked] if asked else [])], seconds)


def stream(kind: Literal["events", "websocket"], url: str, connections: int, seconds: float) -> Timing:
    """Receive events, or exchange WebSocket messages (*kind* says which), over *connections* connections.

    Raises:
        WebLoadError: Not every connection was answered, or nothing was counted.
    """
    options = ["--connections", str(connections), "--seconds", str(seconds)]
    return run([sys.executable, "-m", "benchmarks.load.stream_load", kind, url, *options], seconds)


def open_loop(url: str, connections: int, seconds: float, rate: float) -> Timing:
    """Send GETs at *rate* a second, whether the ones before are answered or not.

    Raises:
        WebLoadError: The load generator failed, or no answer was a good one.
    """
    options = ["--connections", str(connections), "--seconds", str(seconds), "--rate", str(rate)]
    return run([sys.executable, "-m", "benchmarks.load.open_loop", url, *options], seconds)


def run(command: list[str], seconds: float) -> Timing:
    """Run a load generator that prints what it saw as `wrk_report.lua` does.

    Raises:
        WebLoadError: It failed, or no answer was a good one.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, cwd=REPOSITORY)
    except subprocess.TimeoutExpired as silent:
        raise WebLoadError(f"no end of the load: {' '.join(command[-4:])}") from silent
    if done.returncode:
        raise WebLoadError(done.stderr[-500:] or done.stdout[-500:])
    found = json.loads(done.stdout.splitlines()[-1])
    if not found["requests"]:
        raise WebLoadError(f"none of {found['errors']} requests had a good answer")
    return Timing(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_ms=_ms(found["p50_us"]),
        p99_ms=_ms(found["p99_us"]),
        errors=found["errors"],
        lag_ms=_ms(found.get("lag_us")),
    )


def _ms(us: float | None) -> float | None:
    return None if us is None else us / 1e3


def _wrk(url: str, connections: int, seconds: float, new_connections: bool) -> list[str]:
    close = ["-H", "Connection: close"] if new_connections else []
    whole = max(1, round(seconds))  # wrk takes whole seconds only
    options = ["-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s", "-s", str(WRK_REPORT)]
    return ["wrk", *options, *close, url]


def _own(url: str, connections: int, seconds: float, new_connections: bool) -> list[str]:
    close = ["--new-connections"] if new_connections else []
    options = ["--connections", str(connections), "--seconds", str(seconds), *close]
    return [sys.executable, "-m", "benchmarks.load.closed_loop", url, *options]
