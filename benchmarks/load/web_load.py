"""HTTP load: a closed loop by wrk if it is installed, otherwise by the clients of this package."""

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
    """The server gave a wrong answer, or the load generator failed."""


def generator() -> str:
    """Return the name of the load generator of `load` on this machine."""
    return "wrk" if shutil.which("wrk") else "own asyncio client"


def wait_until_answering(url: str, *, post: bool = False, limit_s: float = 60.0) -> None:
    """Wait until *url* answers GET, or POST, with `BODY`.

    Raises:
        WebLoadError: *url* does not within *limit_s* seconds. The message holds the last answer.
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
        time.sleep(0.05)  # a starting server offers only its port to wait for
    raise WebLoadError(f"{url} is not ready: {last}")


def check_echo(url: str, length: int) -> None:
    """Check that *url* returns a body of *length* bytes unchanged.

    Raises:
        WebLoadError: The answer differs from the body.
    """
    body = b"1" * length
    try:
        with urllib.request.urlopen(url, body, timeout=30) as answer:
            echo = answer.read()
    except OSError as error:
        raise WebLoadError(f"no echo from {url}: {error}") from error
    if echo != body:
        raise WebLoadError(f"{url} returned {len(echo)} different bytes for {length}")


def load(
    url: str,
    connections: int,
    seconds: float,
    *,
    new_connections: bool = False,
    endpoints: int | None = None,
    body_bytes: int = 0,
) -> Timing:
    """Send GETs over *connections* connections for *seconds*.

    With *new_connections*, each request opens a connection. With *endpoints*, requests go in turn to *url* followed by
    a number from 0 to *endpoints* - 1. With *body_bytes*, the requests are POSTs.

    Raises:
        WebLoadError: The load generator failed, or no request had a good answer.
    """
    command = (_wrk if shutil.which("wrk") else _own)(url, connections, seconds, new_connections)
    settings = {"endpoints": endpoints, "body": body_bytes}
    asked = [f"{name}={value}" for name, value in settings.items() if value]
    return run([*command, *(["--", *asked] if asked else [])], seconds)


def stream(kind: Literal["events", "websocket"], url: str, connections: int, seconds: float) -> Timing:
    """Receive events or exchange WebSocket messages, as *kind* says, over *connections* connections.

    Raises:
        WebLoadError: A connection had no answer, or no event or message was counted.
    """
    options = ["--connections", str(connections), "--seconds", str(seconds)]
    return run([sys.executable, "-m", "benchmarks.load.stream_load", kind, url, *options], seconds)


def open_loop(url: str, connections: int, seconds: float, rate: float) -> Timing:
    """Send *rate* GETs a second, independent of the answers to earlier requests.

    Raises:
        WebLoadError: The load generator failed, or no request had a good answer.
    """
    options = ["--connections", str(connections), "--seconds", str(seconds), "--rate", str(rate)]
    return run([sys.executable, "-m", "benchmarks.load.open_loop", url, *options], seconds)


def run(command: list[str], seconds: float) -> Timing:
    """Run a load generator with the output of `wrk_report.lua`.

    Raises:
        WebLoadError: The load generator failed, or no request had a good answer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, cwd=REPOSITORY)
    except subprocess.TimeoutExpired as silent:
        raise WebLoadError(f"the load did not end: {' '.join(command[-4:])}") from silent
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
    whole = max(1, round(seconds))  # wrk accepts only whole seconds
    options = ["-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s", "-s", str(WRK_REPORT)]
    return ["wrk", *options, *close, url]


def _own(url: str, connections: int, seconds: float, new_connections: bool) -> list[str]:
    close = ["--new-connections"] if new_connections else []
    options = ["--connections", str(connections), "--seconds", str(seconds), *close]
    return [sys.executable, "-m", "benchmarks.load.closed_loop", url, *options]
