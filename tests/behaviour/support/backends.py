"""Backends that several tests share. Small to import: every replica of a Ray cluster does."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import serve_bridge as serve
from tests.support.waiting import reached


def version_1(request: Any) -> str:
    """Say which one this is."""
    return "v1"


def version_2(request: Any) -> str:
    """Say which one this is."""
    return "v2"


def data(request: Any) -> Any:
    """Return what was passed to the handle."""
    return request.data


def who(request: Any) -> str:
    """Say which replica answered."""
    return serve.get_replica_context().replica


class Counter:
    """Counts its calls."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def __call__(self, request: Any) -> int:
        """Count one more."""
        self.count += 1
        return self.count

    def add(self, amount: int) -> int:
        """Add *amount*."""
        self.count += amount
        return self.count


class Gate:
    """Leaves a file for each request that has begun, and answers once the file `open` is in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def __call__(self, request: Any) -> Any:
        """Return the data, once it may."""
        (self.directory / f"begun-{request.data}").touch()
        await reached((self.directory / "open").exists)
        return request.data


class Journal:
    """Appends what it gets to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, request: Any) -> str:
        """Write an entry."""
        entry = request.data if isinstance(request, serve.ServeRequest) else request.query_params["entry"]
        with open(self.file, "a") as file:
            file.write(f"{entry}\n")
        return "written"


class Configured:
    """Answers with what it was configured with; refuses the value "bad"."""

    def __init__(self) -> None:
        self.value: Any = None

    def reconfigure(self, value: Any) -> None:
        """Take a new value."""
        if value == "bad":
            raise ValueError("refused: bad")
        self.value = value

    def __call__(self, request: Any) -> Any:
        """Return the value."""
        return self.value


class OddError(Exception):
    """Cannot be rebuilt from its pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")
        self.lock = threading.Lock()


class OwnError(Exception):
    """An exception class of the user's own."""


def process(request: Any) -> int:
    """Say which process this is."""
    return os.getpid()


class WaitsForFile:
    """A backend that is ready once a file exists."""

    def __init__(self, path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.01)

    def __call__(self, request: Any) -> str:
        """Answer."""
        return "ready"


class NeedsFile:
    """A backend that cannot start without a file."""

    def __init__(self, path: str) -> None:
        os.stat(path)

    def __call__(self, request: Any) -> str:
        """Answer."""
        return "ready"
