"""The end of replicas: it does not depend on the task that asks for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.contact import Contact
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.wire.keys import Key
from tests.support.waiting import reached


class SlowRuntime:
    """A runtime that ends processes when it is told to.

    Attributes:
        may_end: Set when it shall.
        ended: The processes that it has ended.
    """

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.ended: list[str] = []

    async def stop(self, name: str) -> None:
        """End *name*."""
        await self.may_end.wait()
        self.ended.append(name)

    async def has_ended(self, name: str) -> bool:
        """Return whether *name* has ended."""
        return name in self.ended


def test_abandoned_replicas_end_even_if_the_change_is_cancelled() -> None:
    """Until they have ended, the checkpoint has them without an address, so the next controller would end them."""

    async def main(turns: int) -> tuple[Any, ...]:
        runtime = SlowRuntime()
        contact = Contact(Key(), "g", runtime.has_ended)
        replicas = Replicas(
            cast(Runtime, runtime), contact, on_change=lambda _: None, on_end=lambda _replica, _how: None
        )
        config = BackendConfig().resolved(False)
        both = [TrackedReplica(id, "b", 1, config) for id in ("r1", "r2")]
        for each in both:
            replicas.add(each)
        change = asyncio.ensure_future(replicas.abandon(both))
        for _ in range(turns):
            await asyncio.sleep(0)
        change.cancel()
        await asyncio.wait([change])
        noted = [(each.id, each.address) for each in replicas.snapshots]
        runtime.may_end.set()
        await reached(lambda: not replicas.snapshots)
        return change.cancelled(), noted, runtime.ended

    for turns in (1, 2, 3):
        assert asyncio.run(main(turns)) == (True, [("r1", None), ("r2", None)], ["r1", "r2"]), turns
