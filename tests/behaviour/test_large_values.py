"""Large Python values through a handle, and endpoints that do not suffer from their neighbours."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import serve_bridge as serve
from tests.support.serving import Served, Serving
from tests.support.waiting import reached, wait_until

LARGE = 6 << 20


class Values:
    """Returns what it gets, in each way there is."""

    def __call__(self, request: Any) -> Any:
        """Return it."""
        return request.data

    async def items(self, value: Any) -> AsyncIterator[Any]:
        """Yield it three times, from memory that is used again."""
        item = np.array(value)
        for number in range(3):
            item[0] = number
            yield item


class Gate:
    """Answers once the file `open` is in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def __call__(self, request: Any) -> bytes:
        """Wait."""
        await reached((self.directory / "open").exists)
        return b""


def free(request: Any) -> bytes:
    """Answer at once."""
    return b""


@pytest.fixture(scope="module")
def values(module_serving: Serving) -> Served:
    """An endpoint that returns what it gets."""
    return module_serving(Values)


@pytest.mark.parametrize(
    "value",
    [np.arange(LARGE, dtype="u1"), bytes(LARGE), "é" * LARGE, list(range(LARGE // 16))],
    ids=["array", "bytes", "text", "list"],
)
def test_a_large_value_comes_back_as_it_was(values: Served, value: Any) -> None:
    """From a thread and from a loop."""

    async def acall() -> Any:
        return await values.handle.acall(value)

    assert np.array_equal(asyncio.run(acall()), value)
    assert np.array_equal(values.handle.call(value), value)


def test_arrays_come_back_writable(values: Served) -> None:
    """They are the receiver's own; one that could not be written to can still not be."""
    frozen = np.arange(100_000)
    frozen.flags.writeable = False
    own, fixed = values.handle.call([np.arange(LARGE), frozen])
    own[-1] = 7
    assert (own[-1], fixed.flags.writeable) == (7, False)


def test_a_generator_may_yield_the_same_array_again(values: Served) -> None:
    """Each item is what it was when it was yielded."""
    items = values.handle.options(method_name="items").stream(np.zeros(LARGE // 8))
    assert [(item[0], len(item)) for item in items] == [(number, LARGE // 8) for number in range(3)]


@pytest.mark.parametrize("way", ["loop", "threads", "http"])
def test_an_endpoint_is_served_while_the_line_of_another_is_full(
    serving: Serving, client: serve.Client, tmp_path: Path, way: str
) -> None:
    """Whoever waits for the one, and whoever is refused there, costs the other nothing in the same process."""
    full = serving(Gate, tmp_path, config={"max_concurrent_queries": 1, "max_queued_queries": 10})
    other = serving(free)

    async def main() -> None:
        with ThreadPoolExecutor(31) as threads:
            async with httpx.AsyncClient(base_url=client.http_urls[0], trust_env=False, timeout=30) as http:

                async def ask(endpoint: Served, number: int) -> bool:
                    if way == "http":
                        return (await http.get(endpoint.route, params={"n": number})).is_success
                    try:
                        if way == "loop":
                            await endpoint.handle.acall(number)
                        else:
                            await asyncio.get_running_loop().run_in_executor(threads, endpoint.handle.call, number)
                    except serve.BackendOverloaded:
                        return False
                    return True

                waiting = [asyncio.create_task(ask(full, number)) for number in range(30)]
                # One runs and ten wait; besides, a thread's may be on its way back to a line that is full again.
                await reached(lambda: sum(task.done() for task in waiting) >= 18)
                assert all([await ask(other, number) for number in range(50)])
                assert sum(task.done() for task in waiting) < 20
                (tmp_path / "open").touch()
                assert sum(await asyncio.gather(*waiting)) in (11, 12)

    asyncio.run(main())


LONG = list(range(300_000))
"""Its pickle is long, so it is made and read on a thread."""


def test_a_long_list_does_not_wait_for_the_callers_executor(values: Served) -> None:
    """User code may have filled it."""
    opened = threading.Event()

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        waiting = [loop.run_in_executor(None, opened.wait) for _ in range(3)]
        try:
            return await values.handle.options(timeout_s=60).acall(LONG)
        finally:
            opened.set()
            await asyncio.gather(*waiting)

    assert asyncio.run(main()) == LONG


class Filling:
    """Fills the executor of its loop until the file `open` is in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def __call__(self, request: Any) -> None:
        """Return once every thread of the executor waits."""
        loop = asyncio.get_running_loop()
        self.waiting = [loop.run_in_executor(None, self._wait, n) for n in range(64)]
        await reached((self.directory / "waiting").exists)

    def _wait(self, number: int) -> None:
        (self.directory / "waiting").touch()
        wait_until((self.directory / "open").exists, 60)

    async def length(self, value: Any) -> int:
        """Return the length."""
        return len(value)


def test_a_long_list_does_not_wait_for_the_replicas_executor(serving: Serving, tmp_path: Path) -> None:
    """User code may have filled it."""
    served = serving(Filling, tmp_path)
    served.handle.call()
    try:
        assert served.handle.options(method_name="length", timeout_s=60).call(LONG) == len(LONG)
    finally:
        (tmp_path / "open").touch()


class Slow:
    """Takes a while to be pickled, and is long."""

    def __reduce__(self) -> Any:
        time.sleep(0.3)
        return (list, (LONG,))


def test_the_time_of_a_call_counts_from_before_its_arguments_are_packed(values: Served) -> None:
    """What is late is not sent, whether the caller waits on a loop or not."""
    handle = values.handle.options(timeout_s=0.1)
    with pytest.raises(serve.DeadlineExceeded) as blocking:
        handle.call(Slow())
    with pytest.raises(serve.DeadlineExceeded) as waiting:
        asyncio.run(_call(handle, [LONG, Slow()]))
    assert (blocking.value.executed, waiting.value.executed) == ("no", "no")


async def _call(handle: serve.Handle, value: Any) -> Any:
    return await handle.acall(value)
