"""What is compared, the contract each contender keeps, and serve_bridge's own entries.

Rule 1: importing this module imports no server and no Ray: a stage does, in the environment its entry has.
Rule 2: all use the limits of `IN_FLIGHT`, so that no default of one contender throttles another's load.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import benchmarks.sites
from benchmarks import BODY
from benchmarks.calls import Calls, Kind

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


def _web_app(name: str, label: str, app: str, interface: str) -> Iterator[Entry]:
    """Yield the entry of an app of `web_apps` that answers by itself, and of the one that forwards."""
    yield Entry(name, label, "benchmarks.servers:WebApp", VIEW, (f"{app}_plain", interface), plain=name)
    forwarding, bridged = "benchmarks.servers:ForwardingWebApp", (f"{app}_bridged", interface)
    yield Entry(f"{name}-bridge", "the same, forwarded", forwarding, VIEW, bridged, plain=name)


OURS: Final = "serve-bridge"

ENTRIES: Final[Mapping[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry(OURS, "serve_bridge", "benchmarks.contenders:Bridge", SITES | POST | CALLS),
        Entry("bare", "bare uvicorn + Starlette", "benchmarks.servers:Bare", SITES | POST),
        Entry("ray-serve", "Ray Serve, defaults", "benchmarks.peers:RayServe", SITES | CALLS),
        Entry(
            "ray-serve-haproxy",
            "Ray Serve, HAProxy mode",
            "benchmarks.peers:RayServeFast",
            SITES | {"acall"},
            environment=haproxy_environment,
        ),
        Entry("ray-actor-async", "raw Ray actor, async", "benchmarks.peers:AsyncActor", CALLS),
        Entry("ray-actor-sync", "raw Ray actor, sync", "benchmarks.peers:SyncActor", CALLS),
        Entry("mosec", "Mosec, one worker", "benchmarks.servers:Mosec", POST),
        Entry("litserve", "LitServe, one worker", "benchmarks.servers:LitServe", POST),
        Entry("celery", "Celery and Redis, one worker", "benchmarks.servers:Celery", frozenset(("call",))),
        Entry("direct", "called directly, in a loop", "benchmarks.work:Direct", frozenset(("work",))),
        Entry("round-robin", "round robin"),
        Entry("fewest-in-flight", "the fewest in flight"),
        Entry("soonest-answer", "the soonest answer, all known"),
        *_web_app("flask", "Flask view, gunicorn gthread", "flask", "wsgi"),
        *_web_app("django", "Django sync view, gunicorn gthread", "django", "wsgi"),
        *_web_app("adjango", "Django async view, uvicorn", "async_django", "asgi"),
        *_web_app("starlette", "Starlette route, uvicorn", "starlette", "asgi"),
    )
}

CALLERS: Final[Mapping[str, Entry]] = {
    "bridge-caller": Entry("bridge-caller", "a process without Ray", "benchmarks.contenders:BridgeCaller")
}


async def noop(request: object) -> bytes:
    """Answer at once: the backend of most serve_bridge measurements."""
    return BODY


async def sites(request: Any) -> Any:
    """Answer what `benchmarks.sites` has at the path asked for."""
    path = request.scope["path"][1:]
    return await (benchmarks.sites.websocket if path == "websocket" else benchmarks.sites.SITES[path])(request)


class Bridge(OnRay):
    """serve_bridge on Ray: its proxy for HTTP, and `handle.remote` from the process that started it."""

    def start(self, directory: Path) -> None:
        """Start a cluster, an instance, and a replica each of `noop` and of `sites`."""
        import ray

        import serve_bridge as serve

        super().start(directory)
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


class BridgeCaller(Contender):
    """What a web worker is: a process without Ray that calls over the data plane.

    Raises:
        RuntimeError: Connecting imported Ray, so the figures would not be those of a process without it.
    """

    def start(self, directory: Path) -> None:
        """Connect to the instance in `SERVE_BRIDGE_ADDRESS` and take a handle of the endpoint in `ENDPOINT`."""
        import serve_bridge as serve

        serve.connect(os.environ["SERVE_BRIDGE_ADDRESS"])
        handle: Any = serve.get_handle(os.environ.get(ENDPOINT, "noop"))
        handle.call(1)
        if "ray" in sys.modules:
            raise RuntimeError("the calling process imported Ray")
        self.calls = Calls(call=lambda: handle.call(1), acall=lambda: handle.acall(1))
