"""The local runtime: a process that is stopped while it starts leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.instance.instance import Instance
from serve_bridge.runtimes.local import NODE, LocalRuntime
from serve_bridge.specs import ProxySpec, ReplicaSpec
from serve_bridge.user_code.frozen_code import freeze_code
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key
from tests.support.waiting import wait_until_equal


class Backend:
    """Constructed on a thread of its replica."""

    def __call__(self, request: Any) -> None:
        """Answer nothing."""


async def start_of(runtime: LocalRuntime, kind: str, directory: Path) -> object:
    """Start a replica or a proxy named "p"."""
    controller = SocketAddress("controller", str(directory / "controller.sock"))
    key = Key()
    if kind == "proxy":
        spec = ProxySpec("p", NODE, "g", controller, str(directory), None, HTTPOptions(port=0))
        return await runtime.launch_proxy(spec, key)
    instance = Instance(
        name="test", generation="g", runtime="local", directory=str(directory), controller=controller, secret=key.text
    )
    config = BackendConfig().resolved(False)
    code = freeze_code(Backend, (), {})
    return await runtime.launch_replica(ReplicaSpec("p", "b", instance, str(directory), None, code, config), key, {})


def new_threads(old: list[threading.Thread]) -> list[threading.Thread]:
    """Return the threads of the engine and of user code that are not among *old*."""
    return [each for each in threading.enumerate() if each.name.startswith("serve_bridge") and each not in old]


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("kind", ["replica", "proxy"])
def test_a_process_that_stops_while_it_starts_leaves_nothing(kind: str, turns: int, tmp_path: Path) -> None:
    """No thread, no socket and no lock file, however far the start has come."""

    async def stop_soon() -> None:
        runtime = LocalRuntime(lambda: None)
        starting = asyncio.ensure_future(start_of(runtime, kind, tmp_path))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        await runtime.stop("p")
        await asyncio.wait([starting])
        assert starting.cancelled() or isinstance(starting.result(), SocketAddress)

    old = threading.enumerate()
    asyncio.run(stop_soon())
    wait_until_equal(lambda: new_threads(old), [])
    assert list(tmp_path.glob("*.sock")) == []


def test_a_process_has_stopped_to_listen_when_stop_returns(tmp_path: Path) -> None:
    """The instance then removes the directory, and a process that still begins to listen would make it again."""
    found: list[bool] = []

    class Slow:
        """A process whose start makes a file when it is cancelled."""

        async def start(self) -> None:
            """Wait for the end."""
            try:
                await asyncio.sleep(60)
            finally:
                (tmp_path / "made").touch()

        def close(self) -> None:
            """Note whether the start has ended before."""
            found.append((tmp_path / "made").exists())

    async def main(start: Callable[..., Any]) -> bool:
        starting = asyncio.ensure_future(start("p", Slow(), str(tmp_path)))
        await asyncio.sleep(0)
        await runtime.stop("p")
        await asyncio.wait([starting])
        return bool(found)

    runtime = LocalRuntime(lambda: None)
    assert asyncio.run(main(runtime._launch))
    assert found == [True]
