"""The instance of the pages in docs/deploy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import serve_bridge as serve
from tests.support.listening_engine import start_listening
from tests.support.waiting import reached

WAIT_S = 60.0
"""Upper limit for a waiting request, in seconds."""


@dataclass(frozen=True)
class Shop:
    """A listening instance with the endpoint of the pages.

    Attributes:
        client: Of the instance.
        keys: The directory of its key files.
        gate: The file for which a request with the text "wait" waits.
    """

    client: serve.Client
    keys: Path
    gate: Path


@contextmanager
def open_shop(directory: Path) -> Iterator[Shop]:
    """Run the instance until the block ends; its key files and its gate are in *directory*."""
    gate = directory / "gate"
    client = start_listening("shop", directory)

    async def mood(request: serve.ServeRequest) -> dict[str, int]:
        text = (request.data if isinstance(request.data, dict) else await request.json())["text"]
        if text == "wait":
            (directory / "waiting").touch()
            await reached(gate.exists, WAIT_S)
        return {"happy": len(text)}

    try:
        client.create_backend("mood", mood, config={"max_concurrent_queries": 16})
        client.create_endpoint("mood", backend="mood")
        yield Shop(client, directory, gate)
    finally:
        client.shutdown()
