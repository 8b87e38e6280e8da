"""The lease on a non-detached instance."""

from __future__ import annotations

import asyncio

from serve_bridge.controller.lease import Lease


class Held:
    """A lease without any grace, and whether its instance was ended."""

    def __init__(self) -> None:
        self.ended = False
        self.lease = Lease("main", self._end, grace_s=0)

    def _end(self) -> None:
        self.ended = True

    async def hold(self) -> asyncio.Task[None]:
        """Let somebody hold on."""
        task = asyncio.create_task(self.lease.hold())
        await turns()
        return task


async def turns() -> None:
    """Let the loop do what is due."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_an_instance_that_nobody_holds_ends() -> None:
    """As soon as its grace is over."""

    async def main() -> bool:
        held = Held()
        held.lease.expect()
        await turns()
        return held.ended

    assert asyncio.run(main())


def test_who_holds_on_before_it_is_expected_keeps_the_instance() -> None:
    """A client may be quicker than a controller that comes back."""

    async def main() -> bool:
        held = Held()
        holder = await held.hold()
        held.lease.expect()
        await turns()
        ended = held.ended
        holder.cancel()
        return ended

    assert not asyncio.run(main())


def test_an_instance_ends_with_the_last_of_its_holders() -> None:
    """Not with the first."""

    async def main() -> list[bool]:
        held, ended = Held(), []
        for holder in [await held.hold(), await held.hold()]:
            holder.cancel()
            await turns()
            ended.append(held.ended)
        return ended

    assert asyncio.run(main()) == [False, True]


def test_a_closed_lease_ends_nothing() -> None:
    """The instance is being shut down already."""

    async def main() -> bool:
        held = Held()
        holder = await held.hold()
        held.lease.close()
        holder.cancel()
        await turns()
        return held.ended

    assert not asyncio.run(main())
