"""The deployments that run at one instance: one a project at a time.

Rule 1: a deployment holds its project's turn until its process says that it has ended, or is gone.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from serve_bridge.errors import ConfigError

__all__ = ["Deployments"]


class Deployments:
    """The deployments that run or wait for their turn, each by a key of its own."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._turns: dict[str, asyncio.Event] = {}
        self._running: set[str] = set()

    def runs(self, project: str) -> bool:
        """Return whether a deployment of *project* runs."""
        return project in self._running

    async def hold(self, project: str, key: str) -> None:
        """Wait for the turn of *project*, and hold it until cancelled; never returns."""
        turn = self._turns.setdefault(key, asyncio.Event())
        lock = self._locks.get(project)
        if lock is None:
            lock = self._locks[project] = asyncio.Lock()
        try:
            async with lock:
                self._running.add(project)
                turn.set()
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    self._running.discard(project)
        finally:
            self._turns.pop(key, None)

    async def wait(self, project: str, key: str, timeout_s: float) -> None:
        """Return when the deployment *key* of *project*, which calls `hold`, has its turn.

        Raises:
            ConfigError: Another deployment of the project has not ended in time.
        """
        try:
            # `hold` may be called later than this: both come over one connection, but run on their own.
            await asyncio.wait_for(self._turns.setdefault(key, asyncio.Event()).wait(), timeout_s)
        except TimeoutError:
            self._turns.pop(key, None)
            raise ConfigError(
                f"another deployment of project {project!r} has run for {timeout_s:g} s; wait until it ends, or end "
                "its process"
            ) from None
