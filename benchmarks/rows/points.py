"""The points of each row. A row is one numbered question of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.contenders.contender import PointKind
from benchmarks.rows import batches, encryption, isolation, scale, starts, uneven
from benchmarks.trial import Trial


@dataclass(frozen=True, slots=True)
class Point:
    """One load for all contenders with its kind in their entries.

    Attributes:
        name: Short key, for the results.
        label: Name in tables.
        kind: Kind of the load.
        concurrency: Number of connections, threads, tasks, or requests in a window.
        new_connections: Whether each HTTP request opens a connection of its own.
        body_bytes: Length of each request's body in bytes. For a download, the length of the answer's body.
        pause_s: Seconds between two events of a stream.
    """

    name: str
    label: str
    kind: PointKind
    concurrency: int = 1
    new_connections: bool = False
    body_bytes: int = 0
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One question, and the points for its answer."""

    title: str
    points: tuple[Point, ...]


ROWS: Final[Mapping[int, Row]] = {
    1: Row(
        "No-op GET through the proxy",
        (
            Point("http-1", "1 connection", "http", 1),
            Point("http-16", "16 connections", "http", 16),
            Point("http-64", "64 connections", "http", 64),
            Point("http-256", "256 connections", "http", 256),
            Point("http-64-new", "64 connections, a new one for each request", "http", 64, new_connections=True),
            Point("open-64", "open loop, half of the rate at 64 connections", "open", 64),
            Point("post-1", "POST of 2 bytes, 1 connection", "post", 1, body_bytes=2),
            Point("post-64", "POST of 2 bytes, 64 connections", "post", 64, body_bytes=2),
        ),
    ),
    2: Row(
        "Long bodies, and their echo",
        (
            Point("upload", "1 GiB up", "upload", body_bytes=1 << 30),
            Point("download", "1 GiB down", "download", body_bytes=1 << 30),
            Point("echo-1k", "1 KiB, 16 connections", "echo", 16, body_bytes=1 << 10),
            Point("echo-100k", "100 KiB, 16 connections", "echo", 16, body_bytes=100 << 10),
            Point("echo-1m", "1 MiB, 1 connection", "echo", 1, body_bytes=1 << 20),
            Point("echo-10m", "10 MiB, 1 connection", "echo", 1, body_bytes=10 << 20),
            Point("memory", "memory after all of these", "memory"),
        ),
    ),
    3: Row(
        "No-op call from Python",
        (
            Point("call-1", "sync call and wait, 1 thread", "call", 1),
            Point("call-8", "sync call and wait, 8 threads", "call", 8),
            Point("acall-1", "async call, 1 in flight", "acall", 1),
            Point("acall-64", "async call, 64 in flight", "acall", 64),
            Point("acall-512", "async call, 512 in flight", "acall", 512),
            Point("remote-1", "`remote` and get, one", "remote", 1),
            Point("remote-100", "`remote` and get, windows of 100", "remote", 100),
        ),
    ),
    4: Row(
        "The same view with and without the bridge",
        (
            Point("view-1", "1 connection", "view", 1),
            Point("view-16", "16 connections", "view", 16),
        ),
    ),
    5: Row(
        "More replicas, endpoints, callers and connections",
        (
            Point("scale-1", "1 replica, 1 endpoint, 64 connections", "own"),
            Point("replicas-2", "2 replicas", "own"),
            Point("replicas-4", "4 replicas", "own"),
            Point("replicas-8", "8 replicas", "own"),
            Point("scale-8-1000", "8 replicas, 1,000 endpoints", "own"),
            Point("scale-8-1000-512", "8 replicas, 1,000 endpoints, 512 connections", "own"),
            Point("endpoints-100", "100 endpoints", "own"),
            Point("endpoints-1000", "1,000 endpoints", "own"),
            Point("endpoints-10000", "10,000 endpoints", "own"),
            Point("callers-1", "sync call and wait, 1 process", "own"),
            Point("callers-8", "sync call and wait, 8 processes", "own"),
            Point("callers-32", "sync call and wait, 32 processes", "own"),
            Point("idle-10000", "64 connections beside 10,000 idle ones", "own"),
        ),
    ),
    6: Row(
        "Four replicas, one ten times slower; an overloaded neighbour",
        (
            Point("uneven-10", "open loop, a tenth of the capacity of all four", "own"),
            Point("uneven-50", "open loop, half of it", "own"),
            Point(isolation.IDLE, "500 requests/s beside an idle endpoint", "own"),
            Point(isolation.SATURATED, "the same beside an endpoint with ten times the load of its capacity", "own"),
        ),
    ),
    7: Row(
        "A batched model that takes 5 ms a batch",
        (
            Point("batch-http-8", "batches of 8, 32 connections", "own"),
            Point("batch-acall-8", "batches of 8, 32 async calls in flight", "own"),
            Point("batch-http-32", "batches of 32, 128 connections", "own"),
            Point("batch-acall-32", "batches of 32, 128 async calls in flight", "own"),
        ),
    ),
    8: Row(
        "A handler that works for 5 ms",
        (
            Point("work-1", "1 connection", "work", 1),
            Point("work-16", "16 connections", "work", 16),
        ),
    ),
    9: Row(
        "Starting, with Ray running; and the growth of a web worker",  # `footprint` measures the growth
        (
            Point("first-answer", "from `serve.start()` to the first answer", "own"),
            Point("one-replica-more", "one more replica", "own"),
        ),
    ),
    10: Row(
        "Server-sent events and WebSocket messages",
        (
            Point("events-1", "events, 1 stream", "events", 1),
            Point("events-64", "events, 64 streams", "events", 64),
            Point("events-64-paced", "events, 64 streams, 10 ms between two", "events", 64, pause_s=0.01),
            Point("websocket-1", "WebSocket echo, 1 connection", "websocket", 1),
            Point("websocket-64", "WebSocket echo, 64 connections", "websocket", 64),
        ),
    ),
    11: Row(
        "No-op call from another host, with and without TLS",
        (
            Point("tcp-call-1", "sync call and wait, TCP", "own"),
            Point("tls-call-1", "sync call and wait, TLS", "own"),
            Point("tcp-acall-64", "async call, 64 in flight, TCP", "own"),
            Point("tls-acall-64", "async call, 64 in flight, TLS", "own"),
        ),
    ),
}

MEASURES: Final[Mapping[int, tuple[Callable[[Trial], None], ...]]] = {
    5: (scale.measure,),
    6: (uneven.measure, isolation.measure),
    7: (batches.measure,),
    9: (starts.measure,),
    11: (encryption.measure,),
}
"""The functions that measure points of the kind "own", by row."""

POINTS: Final[Mapping[str, Point]] = {point.name: point for row in ROWS.values() for point in row.points}
