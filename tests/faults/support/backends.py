"""Backends of the fault tests: they keep the journal that the oracle reads."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tests.faults.support.oracle import Journal, digest_of, events_in
from tests.support.waiting import wait_until


class Recorder:
    """Notes each request as it begins and ends, and answers what the oracle compares."""

    def __init__(self, journal: str, version: str = "v1", work_s: float = 0.005) -> None:
        self.journal = Journal(journal, version)
        self.version = version
        self.work_s = work_s

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Serve one request of `tests.faults.support.load`."""
        id = request.query_params["id"]
        self.journal.start(id)
        payload = await request.body() or request.query_params["payload"].encode()
        await asyncio.sleep(self.work_s)
        self.journal.end(id)
        return {"id": id, "digest": digest_of(payload), "version": self.version, "pid": os.getpid()}


class Unstartable(Recorder):
    """Raises in its constructor."""

    def __init__(self, journal: str) -> None:
        raise RuntimeError("no model here")


class Unhealthy(Recorder):
    """Starts, and never passes a health check."""

    def check_health(self) -> None:
        """Say that nothing is well."""
        raise RuntimeError("not well")


class Crashing(Recorder):
    """Ends its process in its constructor for as long as a file is there."""

    def __init__(self, journal: str, flag: str) -> None:
        super().__init__(journal)
        self.journal.note("constructed")
        if Path(flag).exists():
            os._exit(1)


class Slow(Recorder):
    """Stays in its constructor until a file is there."""

    def __init__(self, journal: str, flag: str) -> None:
        super().__init__(journal, "slow")
        self.journal.note("constructing")
        wait_until(Path(flag).exists, 120.0)


class OneAtFirst(Recorder):
    """The first replica starts; any other one stays in its constructor until a file is there."""

    def __init__(self, journal: str, version: str, flag: str) -> None:
        super().__init__(journal, version)
        self.journal.note("constructing")
        if sum(event.event == "constructing" for event in events_in(Path(journal))) > 1:
            wait_until(Path(flag).exists, 120.0)


class Raising(Recorder):
    """Notes each request, then raises."""

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Fail one request."""
        self.journal.note("shadowed", request.query_params["id"])
        raise RuntimeError("a shadow's own trouble")


class Waiting:
    """Notes each request and waits until it is cancelled, or until a file is there."""

    def __init__(self, journal: str, gate: str) -> None:
        self.journal = Journal(journal)
        self.gate = Path(gate)

    async def __call__(self, request: Any) -> str:
        """Wait."""
        id = request.query_params["id"]
        self.journal.start(id)
        try:
            while not self.gate.exists():  # noqa: ASYNC110 - a file, which another process makes, opens it
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.journal.note("cancelled", id)
            raise
        self.journal.end(id)
        return id

    async def pid(self) -> int:
        """Return the replica's process id."""
        return os.getpid()
