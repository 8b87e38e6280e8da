"""The contract of a contender, and its entry in the registry.

Rule 1: this module imports no server and no Ray. A stage imports them, in the environment of the entry.
Rule 2: all contenders use the limit `IN_FLIGHT`, so that no contender's default throttles its load.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.load.calls import Calls, Kind

IN_FLIGHT: Final = 1024
"""Upper limit for requests in flight. It is above the concurrency of every load, so that no load measures it."""

WebKind = Literal["http", "open", "post", "view", "echo", "memory", "upload", "download", "events", "websocket", "work"]
PointKind = Kind | WebKind | Literal["own"]
"""The kind of a load. "own": a function of `points.MEASURES` makes the load, without a contender's stage."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A stage to start beside a contender, and the address of the instance for its calls."""

    name: str
    environment: Mapping[str, str]


class Contender:
    """One way to get an answer from another process. It lives in a stage, a process of its own.

    Attributes:
        url: URL for a GET (or a POST, if the entry has no other kind) with the answer `BODY`. None without an HTTP
            side. The same origin answers the other kinds of the entry. All attributes are valid after `start`.
        calls: Functions by which this process calls the handler from Python. None without such a way.
        caller: The process for calls of a kind that `calls` lacks. None without such a process.
    """

    url: str | None = None
    calls: Calls | None = None
    caller: Caller | None = None

    def start(self, directory: Path) -> None:
        """Start everything. *directory* is empty, and is removed after `stop`."""

    def stop(self) -> None:
        """End everything from `start`. The near side of the stage ends processes that are left."""


def nothing(directory: Path) -> Mapping[str, str]:
    """Return no variables: the contender runs with its defaults."""
    return {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender in the registry.

    Attributes:
        name: Short key, for the command line and the results.
        label: Name in tables.
        factory: `module:Class`, imported inside the stage only. Empty if a row with code of its own measures it.
        kinds: The kinds of load for this contender.
        arguments: Arguments of the class.
        environment: Function from the stage's directory to the variables of the stage's interpreter.
        plain: Key of the web app with the same view but without the bridge. A web app without the bridge has its own
            key here, and a contender without a web app has None.
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
    """Start a Ray cluster for this process alone. Its files are in *directory*."""
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(directory / "ray"),
    )


class OnRay(Contender):
    """A contender with an instance on a Ray cluster of its own."""

    def start(self, directory: Path) -> None:
        """Start the cluster."""
        start_ray(directory)

    def stop(self) -> None:
        """Shut the instance down, if there is one, then the cluster."""
        import ray

        import serve_bridge as serve

        serve.shutdown()
        ray.shutdown()
