"""The registry: every contender by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks.contenders.contender import Entry, PointKind, free_port

CALLS: Final[frozenset[PointKind]] = frozenset(("call", "acall", "remote"))
SITES: Final[frozenset[PointKind]] = frozenset(
    ("http", "open", "echo", "memory", "upload", "download", "events", "websocket", "work")
)
POST: Final[frozenset[PointKind]] = frozenset(("post",))
VIEW: Final[frozenset[PointKind]] = frozenset(("view",))


def haproxy_environment(directory: Path) -> Mapping[str, str]:
    """Return the variables of Ray Serve's fastest mode, with files and ports for this stage alone."""
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
    """Yield the entries of an app of `web_apps`: once with a view of its own, once with a forwarded view."""
    yield Entry(name, label, "benchmarks.contenders.servers:WebApp", VIEW, (f"{app}_plain", interface), plain=name)
    forwarding, bridged = "benchmarks.contenders.servers:ForwardingWebApp", (f"{app}_bridged", interface)
    yield Entry(f"{name}-bridge", "the same, forwarded", forwarding, VIEW, bridged, plain=name)


OURS: Final = "serve-bridge"

ENTRIES: Final[Mapping[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry(OURS, "serve_bridge", "benchmarks.contenders.bridge:Bridge", SITES | POST | CALLS),
        Entry("bare", "bare uvicorn + Starlette", "benchmarks.contenders.servers:Bare", SITES | POST),
        Entry("ray-serve", "Ray Serve, defaults", "benchmarks.contenders.peers:RayServe", SITES | CALLS),
        Entry(
            "ray-serve-haproxy",
            "Ray Serve, HAProxy mode",
            "benchmarks.contenders.peers:RayServeFast",
            SITES | {"acall"},
            environment=haproxy_environment,
        ),
        Entry("ray-actor-async", "raw Ray actor, async", "benchmarks.contenders.peers:AsyncActor", CALLS),
        Entry("ray-actor-sync", "raw Ray actor, sync", "benchmarks.contenders.peers:SyncActor", CALLS),
        Entry("mosec", "Mosec, one worker", "benchmarks.contenders.servers:Mosec", POST),
        Entry("litserve", "LitServe, one worker", "benchmarks.contenders.servers:LitServe", POST),
        Entry("celery", "Celery and Redis, one worker", "benchmarks.contenders.servers:Celery", frozenset(("call",))),
        Entry("direct", "called directly, in a loop", "benchmarks.contenders.work:Direct", frozenset(("work",))),
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
    "bridge-caller": Entry("bridge-caller", "a process without Ray", "benchmarks.contenders.bridge:BridgeCaller")
}
