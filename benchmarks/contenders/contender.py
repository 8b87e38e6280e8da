"""What is compared, the contract each contender keeps, and serve_bridge's own entries.

Rule 1: importing this module imports no server and no Ray: a stage does, in the environment its entry has.
Rule 2: all use the limits of `IN_FLIGHT`, so that no default of one contender throttles another's load.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.load.calls import Calls, Kind

IN_FLIGHT: Final = 1024  # above every load's concurrency: a limit that is reached would measure the limit

WebKind = Literal["http", "open", "post", "view", "echo", "memory", "upload", "download", "events", "websocket", "work"]
PointKind = Kind | WebKind | Literal["own"]
"""What is sent; "own": whatever a module that is named in `rows.MEASURES` sends, and no contender's stage is asked."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A stage to be started beside a contender, and the address it is to call."""

    name: str
    environment: Mapping[str, str]


class Contender:
    """One way to get an answer out of another process. Lives in a stage, a process of its own.

    Attributes:
        url: Where a GET (a POST, if the entry has no other kind) is answered with `BODY`; None without an HTTP side.
            The other kinds of its entry are answered at the same origin. Valid once started, like all of these.
        calls: How this process calls the handler from Python, None if it cannot.
        caller: Who makes the calls that `calls` lacks, None if nobody.
    """

    url: str | None = None
    calls: Calls | None = None
    caller: Caller | None = None

    def start(self, directory: Path) -> None:
        """Bring everything up; *directory* is empty and is removed after `stop`."""

    def stop(self) -> None:
        """End what `start` started. Processes left after this are ended by whoever started the stage."""


def nothing(directory: Path) -> Mapping[str, str]:
    """Return no environment at all: the contender runs as its defaults have it."""
    return {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender as the registry lists it.

    Attributes:
        name: Short key, as on the command line and in the results.
        label: What tables call it.
        factory: `module:Class`, imported inside the stage only; empty if a row of its own measures this one.
        kinds: The loads that it is put under.
        arguments: What the class is given.
        environment: Variables to set before the stage's interpreter starts, given the stage's directory.
        plain: Key of the web app that answers by itself what this one forwards; None if this is no web app, its own
            key if it is such a plain one.
    """

    name: str
    label: str
    factory: str = ""
    kinds: frozenset[PointKind] = frozenset()
    arguments: tuple[str, ...] = ()
    environment: Callable[[Path], Mapping[str, str]] = nothing
    plain: str | None = None


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ray(directory: Path) -> None:
    """Start a cluster for this process alone, whatever else runs on the machine; its files are in *directory*."""
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(directory / "ray"),
    )


class OnRay(Contender):
    """One that runs an instance on a cluster of its own."""

    def start(self, directory: Path) -> None:
        """Start the cluster."""
        start_ray(directory)

    def stop(self) -> None:
        """Shut the instance down, if there is one, then the cluster."""
        import ray

        import serve_bridge as serve

        serve.shutdown()
        ray.shutdown()
