"""The turns of the deployments of one project."""

from __future__ import annotations

import asyncio

import pytest

from serve_bridge.controller.deployments import Deployments
from serve_bridge.errors import ConfigError


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def test_deployments_of_a_project_take_turns() -> None:
    """The second waits until the first has ended; another project waits for neither."""

    async def main() -> list[bool]:
        deployments = Deployments()
        first, second = (asyncio.create_task(deployments.hold("shop", key)) for key in "ab")
        await deployments.wait("shop", "a", 30)
        waiting = asyncio.create_task(deployments.wait("shop", "b", 30))
        other = asyncio.create_task(deployments.hold("blog", "c"))
        await deployments.wait("blog", "c", 30)
        found = [waiting.done(), deployments.runs("shop")]
        await _ended(first)
        await waiting
        found.append(deployments.runs("shop"))
        await _ended(second)
        await _ended(other)
        return [*found, deployments.runs("shop"), bool(deployments._turns)]

    assert asyncio.run(main()) == [False, True, True, False, False]


def test_a_turn_may_be_waited_for_before_it_is_held() -> None:
    """The two calls come in any order."""

    async def main() -> None:
        deployments = Deployments()
        waiting = asyncio.create_task(deployments.wait("shop", "a", 30))
        await asyncio.sleep(0)
        held = asyncio.create_task(deployments.hold("shop", "a"))
        await waiting
        await _ended(held)

    asyncio.run(main())


def test_a_turn_that_does_not_come_is_an_error() -> None:
    """It names the project, and leaves nothing."""

    async def main() -> Deployments:
        deployments = Deployments()
        with pytest.raises(ConfigError, match="another deployment of project 'shop'"):
            await deployments.wait("shop", "a", timeout_s=0)
        return deployments

    assert asyncio.run(main())._turns == {}
