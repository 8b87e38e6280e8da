"""Forks: what a web application does before its server forks the workers, and libraries that replace sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, error, warning

CHECK: Final = "forks"
GREEN: Final = ("gevent", "eventlet")
"""Workers of gunicorn with sockets of their own."""


@dataclass(frozen=True, kw_only=True)
class ForkFacts:
    """The state of a process after the import of the web application.

    Attributes:
        app: The imported module; "": none was given.
        failure: Why the import failed; "": it did not.
        threads: Names of the threads of the import.
        has_ray: Whether the import connected to Ray.
        patched_by: The library with its own sockets in place of Python.s; None: no library.
        worker_class: gunicorn's `--worker-class`, as far as GUNICORN_CMD_ARGS has it; "": it does not.
        preloads: Whether GUNICORN_CMD_ARGS has `--preload`.
    """

    app: str = ""
    failure: str = ""
    threads: tuple[str, ...] = ()
    has_ray: bool = False
    patched_by: str | None = None
    worker_class: str = ""
    preloads: bool = False


def check_forks(facts: ForkFacts) -> Iterator[Finding]:
    """Yield a finding for each hazard."""
    if facts.worker_class in GREEN or facts.patched_by is not None:
        yield error(
            CHECK,
            f"{facts.worker_class or facts.patched_by} replaces the sockets and threads of the web process, and "
            "serve_bridge needs Python's own",
            "use gunicorn's sync or gthread workers, or an ASGI server",
        )
    if facts.failure:
        yield error(CHECK, f"the import of {facts.app} fails: {facts.failure}", "repair the module, or name another")
    when = "with --preload" if facts.preloads else "if a server loads it before it forks (--preload)"
    if facts.threads:
        yield warning(
            CHECK,
            f"the import of {facts.app} starts threads ({', '.join(facts.threads)}), and {when} the workers lack them; "
            "locks that a thread held stay locked",
            "start threads at the first request, or in the server's post_fork hook",
        )
    if facts.has_ray:
        yield error(
            CHECK,
            f"the import of {facts.app} connects to Ray, and {when} the workers share one connection",
            "call the endpoints of serve_bridge instead; a web process needs no connection to Ray",
        )
