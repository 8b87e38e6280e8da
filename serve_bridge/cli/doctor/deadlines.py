"""Deadlines: the time limits of endpoints, and the time after which gunicorn kills a silent worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, warning

CHECK: Final = "deadlines"


def check_deadlines(timeouts_s: Mapping[str, float | None], gunicorn_s: float) -> Iterator[Finding]:
    """Yield a finding for each endpoint with at least the time of gunicorn's `--timeout`.

    Args:
        timeouts_s: Time limit of each endpoint with a route, in seconds; None: only the caller has a limit.
        gunicorn_s: gunicorn's `--timeout`, in seconds; infinity: none.
    """
    for endpoint, timeout_s in timeouts_s.items():
        if timeout_s is not None and timeout_s >= gunicorn_s:
            yield warning(
                CHECK,
                f"endpoint {endpoint!r} may take {timeout_s:g} s, and gunicorn kills a sync worker after "
                f"{gunicorn_s:g} s without an answer",
                f"lower its timeout_s below {gunicorn_s:g}, or raise gunicorn's --timeout above {timeout_s:g}",
            )
