"""The running deployments of one instance: at most one for each project.

Rule 1: a deployment has the turn of its project until it ends, or until its process disconnects.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from serve_bridge.errors import ConfigError

__all__ = ["Deployments"]


class Deployments:
    """The deployments that run or wait for their turn. Each has a unique key."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._turns: dict[str, asyncio.Event] = {}
        self._running: set[str] = set()

    def runs(self, project: str) -> bool:
        """Return whether a deployment of *project* runs."""
        return project in self._running

    async def hold(self, project: str, key: str) -> None:
        """Wait for the turn of *project*, and keep it until cancelled."""
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
        """Wait until the deployment *key* of *project* has its turn; it calls `hold` too.

        Raises:
            ConfigError: Another deployment of the project did not end in time.
        """
        try:
            # Both calls arrive over one connection, but run in separate tasks. So `hold` may begin after this one.
            await asyncio.wait_for(self._turns.setdefault(key, asyncio.Event()).wait(), timeout_s)
        except TimeoutError:
            self._turns.pop(key, None)
            raise ConfigError(
                f"another deployment of project {project!r} has run for {timeout_s:g} s; wait until it ends, or end "
                "its process"
            ) from None
