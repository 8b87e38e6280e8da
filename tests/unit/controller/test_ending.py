"""The shutdown of an instance: one for all callers, which ends the controller in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.controller.ending import Ending
from serve_bridge.controller.kept_state import KeptState
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.runtimes.local import MemoryStore
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire.keys import Key
from tests.support.waiting import reached


async def kept_in(directory: Path) -> KeptState:
    """Return the kept state of a new instance in *directory*."""
    kept = KeptState("main", str(directory))
    await kept.open()
    await kept.begin(WantedState())
    return kept


def ending(
    kept: KeptState, directory: Path, steps: list[Callable[[], Awaitable[None]]], on_end: Callable[[], object]
) -> Ending:
    """Return the end of an instance that keeps its state in *directory*."""
    http = HTTPOptions.of({"location": "NoServer"})
    spec = InstanceSpec("main", "0a1b2c3d", "local", str(directory), False, None, http, state=str(directory))
    return Ending(spec, Key(), Checkpoints(MemoryStore(), "main"), kept, steps, on_end=on_end)


def test_two_shutdowns_wait_for_the_same_end(tmp_path: Path) -> None:
    """The instance is forgotten, although only the second caller asks for that."""

    async def run() -> None:
        kept = await kept_in(tmp_path / "main")
        drained, ended, count = asyncio.Event(), asyncio.Event(), 0

        async def drain() -> None:
            nonlocal count
            count += 1
            await drained.wait()

        instance = ending(kept, tmp_path / "main", [drain], ended.set)
        first = asyncio.create_task(instance.shutdown(forget=False))
        await reached(lambda: count)
        second = asyncio.create_task(instance.shutdown(forget=True))
        done, _ = await asyncio.wait([first, second], timeout=0.1)
        assert not done
        drained.set()
        await asyncio.gather(first, second)
        await ended.wait()
        assert count == 1
        assert not (tmp_path / "main").exists()

    asyncio.run(run())


def test_a_state_that_cannot_be_removed_is_named_and_the_controller_ends(tmp_path: Path) -> None:
    """Otherwise the name would be taken for good, by a controller that does nothing."""

    async def run() -> None:
        kept = await kept_in(tmp_path / "main")
        (tmp_path / "main" / "previous.json").mkdir()
        ended = asyncio.Event()
        instance = ending(kept, tmp_path / "main", [], ended.set)
        with pytest.raises(OSError, match=r"'main' has ended, but .*previous\.json: Is a directory; .* --fresh"):
            await instance.shutdown(forget=True)
        await ended.wait()
        kept.close()

    asyncio.run(run())


def test_a_failed_step_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""

    async def run() -> None:
        kept = await kept_in(tmp_path / "main")
        ended, steps = asyncio.Event(), []

        async def fail() -> None:
            raise RuntimeError("no step")

        async def step() -> None:
            steps.append("done")

        await ending(kept, tmp_path / "main", [fail, step], ended.set).shutdown(forget=False)
        await ended.wait()
        kept.close()
        assert steps == ["done"]
        assert (tmp_path / "main" / "state.json").exists()

    asyncio.run(run())
    assert "no step" in caplog.text
