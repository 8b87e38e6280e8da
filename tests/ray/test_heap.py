"""What the engine's own processes keep of freed memory, and load."""

from __future__ import annotations

import sys

import pytest

from tests.support.programs import run_program

FAULTS = """
    import asyncio, resource
    from serve_bridge.runtimes.ray.heap import keep_heap
    async def main():
        keep_heap()
        for number in range(60):
            if number == 10:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            blocks = [bytes(128_000) for _ in range(80)]
            b"".join(blocks)
            del blocks
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is the GNU C library's allocator that is told")
def test_memory_of_one_body_is_there_for_the_next() -> None:
    """10 MB in pieces and joined, time after time, take no new pages; unless the environment says what is kept."""
    assert int(run_program(FAULTS)) < 2560
    assert int(run_program(FAULTS, environment={"MALLOC_TRIM_THRESHOLD_": "131072"})) > 2560


def test_an_actor_loads_its_own_part_only() -> None:
    """Nobody pays with memory for what another process does: what all actors import holds none of their parts."""
    program = "import sys; import serve_bridge.runtimes.ray.actors; print(*sys.modules)"
    parts = {
        f"serve_bridge.{part}"
        for part in (
            "api",
            "client.client",
            "controller.controller",
            "proxy.proxy",
            "replica.replica",
            "routing.router",
        )
    }
    assert parts.isdisjoint(run_program(program).split())
