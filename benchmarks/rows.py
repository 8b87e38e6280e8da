"""What is measured: the points of each row, a row being one numbered question of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.calls import Kind


@dataclass(frozen=True, slots=True)
class Point:
    """One load.

    Attributes:
        name: Short key, as in the results.
        label: What tables call it.
        kind: `http`, or a way to call from Python.
        concurrency: Connections, threads, tasks, or requests sent before the first is waited for.
        new_connections: Each HTTP request opens a connection of its own.
        views: The load is for the web apps of `web_apps`, and for nobody else.
    """

    name: str
    label: str
    kind: Kind | Literal["http"]
    concurrency: int
    new_connections: bool = False
    views: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One question, and the points that answer it."""

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
            Point("http-64-new", "64 connections, each request a new one", "http", 64, new_connections=True),
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
            Point("view-1", "1 connection", "http", 1, views=True),
            Point("view-16", "16 connections", "http", 16, views=True),
        ),
    ),
    9: Row("What a web worker grows by", ()),  # no load: `footprint` measures it
}

POINTS: Final[Mapping[str, Point]] = {point.name: point for row in ROWS.values() for point in row.points}
