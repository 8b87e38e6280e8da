"""The engine's own threads, for work that would block an event loop for too long.

The engine does not use the executor of the event loop, because user code may fill it.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from typing import Any

from serve_bridge.process.daemon_threads import DaemonThreads, Result

__all__ = ["on_engine_thread"]

_threads: DaemonThreads


async def on_engine_thread(func: Callable[..., Result], *args: Any) -> Result:
    """Return what *func* returns on one of the engine's threads, with a copy of the caller's context."""
    call = contextvars.copy_context().run
    return await asyncio.wrap_future(_threads.submit(call, func, *args))


def _make_threads() -> None:
    """Make a pool without threads. A forked child has none of its parent's threads, so it needs its own pool."""
    global _threads
    _threads = DaemonThreads(4, "serve_bridge-engine", idle_s=1.0)


_make_threads()
os.register_at_fork(after_in_child=_make_threads)
