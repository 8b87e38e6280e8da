"""The backend of the simulation, and the journal of the run, which all replicas share."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.faults.support.oracle import Event, digest_of
from tests.local.simulation.support.loop import PROCESS

journal: list[Event] = []


def note(event: str, id: str, version: str) -> None:
    """Write a line of the journal."""
    process = PROCESS.get()
    assert process is not None
    journal.append(Event(event, id, version, process.pid, asyncio.get_running_loop().time()))


class Recorder:
    """Notes each request as it begins and ends, and answers what the oracle compares."""

    def __init__(self, version: str) -> None:
        self.version = version

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Work for as long as the caller says."""
        id = request.query_params["id"]
        note("start", id, self.version)
        await asyncio.sleep(float(request.query_params["work_s"]))
        note("end", id, self.version)
        process = PROCESS.get()
        assert process is not None
        return {"id": id, "digest": digest_of(await request.body()), "version": self.version, "pid": process.pid}


class Unstartable:
    """Raises in its constructor."""

    def __init__(self, version: str) -> None:
        raise RuntimeError("no model here")

    async def __call__(self, request: Any) -> None:
        """Never run."""
