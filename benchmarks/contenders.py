"""What is compared, the contract each contender keeps, and serve_bridge's own entries.

Rule 1: importing this module imports no server and no Ray: a stage does, in the environment its entry has.
Rule 2: all use the limits of `IN_FLIGHT`, so that no default of one contender throttles another's load.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import benchmarks.sites
from benchmarks.calls import Calls, Kind
from benchmarks.sites import BODY

IN_FLIGHT: Final = 1024  # above every load's concurrency: a limit that is reached would measure the limit

WebKind = Literal["http", "open", "post", "view", "echo", "memory", "upload", "download", "events", "websocket", "work"]
PointKind = Kind | WebKind | Literal["own"]
"""What is sent; "own": whatever a module that is named in `rows.MEASURES` sends, and no contender's stage is asked."""
CALLS: Final[frozenset[PointKind]] = frozenset(("call", "acall", "remote"))
SITES: Final[frozenset[PointKind]] = frozenset(
    ("http", "open", "echo", "memory", "upload", "download", "events", "websocket", "work")
)
ENDPOINT: Final = "SERVE_BRIDGE_BENCHMARK_ENDPOINT"
POST: Final[frozenset[PointKind]] = frozenset(("post",))
VIEW: Final[frozenset[PointKind]] = frozenset(("view",))


class Contender(Protocol):
    """One way to get an answer out of another process. Lives in a stage, a process of its own."""

    @property
    def url(self) -> str | None:
        """Where a GET (a POST, if the entry has no other kind) is answered with `BODY`; None without an HTTP side.

        The other kinds of its entry are answered at the same origin. Valid once started.
        """

    @property
    def calls(self) -> Calls | None:
        """How this process calls the handler from Python, None if it cannot. Valid once started."""

    @property
    def caller(self) -> Caller | None:
        """Who makes the calls that `calls` lacks, None if nobody. Valid once started."""

    def start(self, directory: Path) -> None:
        """Bring everything up; *directory* is empty and is removed after `stop`."""

    def stop(self) -> None:
        """End what `start` started. Processes left after this are ended by whoever started the stage."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A stage to be started beside a contender, and the address it is to call."""

    name: str
    environment: Mapping[str, str]


def nothing(directory: Path) -> Mapping[str, str]:
    """Return no environment at all: the contender runs as its defaults have it."""
    return {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender as the registry lists it.

    Attributes:
        name: Short key, as on the command line and in the results.
        label: What tables call it.
        factory: `module:Class`, imported inside the stage only.
        kinds: The loads that it is put under.
        environment: Variables to set before the stage's interpreter starts, given the stage's directory.
        plain: Key of the web app that answers by itself what this one forwards; None if this is no web app, its own
            key if it is such a plain one.
    """

    name: str
    label: str
    factory: str
    kinds: frozenset[PointKind] = VIEW
    environment: Callable[[Path], Mapping[str, str]] = nothing
    plain: str | None = None


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def haproxy_environment(directory: Path) -> Mapping[str, str]:
    """Return the variables of Ray Serve's fastest mode, with files and ports of this stage alone."""
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
    }


OURS: Final = "serve-bridge"

ENTRIES: Final[Mapping[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry(OURS, "serve_bridge", "benchmarks.contenders:Bridge", SITES | POST | CALLS),
        Entry("bare", "bare uvicorn + Starlette", "benchmarks.contenders:Bare", SITES | POST),
        Entry("ray-serve", "Ray Serve, defaults", "benchmarks.peers:RayServe", SITES | CALLS),
        Entry(
            "ray-serve-haproxy",
            "Ray Serve, HAProxy mode",
            "benchmarks.peers:RayServeFast",
            SITES | {"acall"},
            haproxy_environment,
        ),
        Entry("ray-actor-async", "raw Ray actor, async", "benchmarks.peers:AsyncActor", CALLS),
        Entry("ray-actor-sync", "raw Ray actor, sync", "benchmarks.peers:SyncActor", CALLS),
        Entry("mosec", "Mosec, one worker", "benchmarks.servers:Mosec", POST),
        Entry("litserve", "LitServe, one worker", "benchmarks.servers:LitServe", POST),
        Entry("celery", "Celery and Redis, one worker", "benchmarks.servers:Celery", frozenset(("call",))),
        Entry("direct", "called directly, in a loop", "benchmarks.work:Direct", frozenset(("work",))),
        Entry("round-robin", "round robin", "benchmarks.uneven:UnevenReplicas", frozenset()),
        Entry("fewest-in-flight", "the fewest in flight", "benchmarks.uneven:UnevenReplicas", frozenset()),
        Entry("soonest-answer", "the soonest answer, all known", "benchmarks.uneven:UnevenReplicas", frozenset()),
        Entry("flask", "Flask view, gunicorn gthread", "benchmarks.web_apps:PlainFlask", plain="flask"),
        Entry("flask-bridge", "the same view, forwarded", "benchmarks.web_apps:BridgedFlask", plain="flask"),
        Entry("django", "Django sync view, gunicorn gthread", "benchmarks.web_apps:PlainDjango", plain="django"),
        Entry("django-bridge", "the same view, forwarded", "benchmarks.web_apps:BridgedDjango", plain="django"),
        Entry("adjango", "Django async view, uvicorn", "benchmarks.web_apps:PlainAsyncDjango", plain="adjango"),
        Entry("adjango-bridge", "the same view, forwarded", "benchmarks.web_apps:BridgedAsyncDjango", plain="adjango"),
        Entry("starlette", "Starlette route, uvicorn", "benchmarks.web_apps:PlainStarlette", plain="starlette"),
        Entry(
            "starlette-bridge", "the same route, forwarded", "benchmarks.web_apps:BridgedStarlette", plain="starlette"
        ),
    )
}

CALLERS: Final[Mapping[str, Entry]] = {
    "bridge-caller": Entry("bridge-caller", "a process without Ray", "benchmarks.contenders:BridgeCaller")
}


class Bare:
    """The same handler in Starlette under uvicorn: no second process, so the most a bridge could reach."""

    calls: Calls | None = None
    caller: Caller | None = None

    def __init__(self) -> None:
        self.url: str | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self, directory: Path) -> None:
        """Run one uvicorn worker with uvloop and httptools, without an access log."""
        port = free_port()
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        command = [sys.executable, "-m", "uvicorn", "benchmarks.bare:app", *options, "--port", str(port)]
        self._server = subprocess.Popen(command, cwd=directory)
        self.url = f"http://127.0.0.1:{port}/noop"

    def stop(self) -> None:
        """End the server and wait for it."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(10)


async def noop(request: object) -> bytes:
    """Answer at once: the backend of most serve_bridge measurements."""
    return BODY


async def sites(request: Any) -> Any:
    """Answer what `benchmarks.sites` has at the path asked for."""
    path = request.scope["path"][1:]
    return await (benchmarks.sites.websocket if path == "websocket" else benchmarks.sites.SITES[path])(request)


class Bridge:
    """serve_bridge on Ray: its proxy for HTTP, and `handle.remote` from the process that started it."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.calls: Calls | None = None
        self.caller: Caller | None = None

    def start(self, directory: Path) -> None:
        """Start a cluster, an instance, and a replica each of `noop` and of `sites`."""
        import ray

        import serve_bridge as serve
        from benchmarks.peers import start_ray

        start_ray(directory)
        client: Any = serve.start(http_options={"port": 0, "max_body_bytes": 2 << 30})
        serve.create_backend("noop", noop, config={"max_concurrent_queries": IN_FLIGHT})
        serve.create_endpoint("noop", backend="noop", route="/noop", methods=["GET", "POST"])
        serve.create_backend("sites", sites, config={"max_concurrent_queries": IN_FLIGHT})
        for name in (*benchmarks.sites.SITES, "websocket"):
            serve.create_endpoint(name, backend="sites", route=f"/{name}", methods=["GET", "POST"])
        handle: Any = serve.get_handle("noop")
        self.url = client.http_urls[0].rstrip("/") + "/noop"
        self.calls = Calls(remote=lambda count: ray.get([handle.remote(1) for _ in range(count)]))
        self.caller = Caller("bridge-caller", {"SERVE_BRIDGE_ADDRESS": client.address})

    def stop(self) -> None:
        """Shut the instance down, then the cluster."""
        import ray

        import serve_bridge as serve

        serve.shutdown()
        ray.shutdown()


class BridgeCaller:
    """What a web worker is: a process without Ray that calls over the data plane.

    Raises:
        RuntimeError: Connecting imported Ray, so the figures would not be those of a process without it.
    """

    url: str | None = None
    caller: Caller | None = None

    def __init__(self) -> None:
        self.calls: Calls | None = None

    def start(self, directory: Path) -> None:
        """Connect to the instance in `SERVE_BRIDGE_ADDRESS` and take a handle of the endpoint in `ENDPOINT`."""
        import serve_bridge as serve

        serve.connect(os.environ["SERVE_BRIDGE_ADDRESS"])
        handle: Any = serve.get_handle(os.environ.get(ENDPOINT, "noop"))
        handle.call(1)
        if "ray" in sys.modules:
            raise RuntimeError("the calling process imported Ray")
        self.calls = Calls(call=lambda: handle.call(1), acall=lambda: handle.acall(1))

    def stop(self) -> None:
        """Nothing is left behind: the process ends."""
