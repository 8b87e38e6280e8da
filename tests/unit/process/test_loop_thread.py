"""A thread with an event loop."""

from __future__ import annotations

import asyncio
import threading

from serve_bridge.process.loop_thread import LoopThread


def test_a_second_stop_does_not_interrupt_the_end_of_the_tasks() -> None:
    """The owner stops the loop, and so does the deletion of the object."""
    thread = LoopThread("stopped-twice")
    begun, cancelled, ended = threading.Event(), threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
            await asyncio.sleep(0.1)
            ended.set()

    thread.submit(work)
    assert begun.wait(20)
    thread.stop()
    assert cancelled.wait(20)
    thread.stop()
    thread.join(20)
    assert ended.is_set()
