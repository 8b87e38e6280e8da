"""Keeps the files of a running process: files that vanish are made again within a second.

A login manager deletes XDG_RUNTIME_DIR after the last logout, and a cleaner deletes old files in /tmp.

Rule 1: a look is a `stat` or two, so it may run on the event loop.
Rule 2: files are made again after two looks in vain, because an instance that ends removes its files before its
    processes have ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

LOOK_S: Final = 0.4
"""Seconds between two looks at the files."""


class FileKeeper:
    """Some files that must not vanish while a process runs."""

    def __init__(
        self, what: str, logger: logging.Logger, is_missing: Callable[[], bool], make: Callable[[], Awaitable[None]]
    ) -> None:
        """Keep the files called *what* in log messages. *make* makes missing files again, or raises OSError."""
        self._what = what
        self._logger = logger
        self._is_missing = is_missing
        self._make = make
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Keep the files from now on."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def close(self) -> None:
        """Let the files vanish from now on. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _keep(self) -> None:
        was_missing, failure = False, ""
        while True:
            await asyncio.sleep(LOOK_S)
            is_missing = self._is_missing()
            if is_missing and was_missing:
                try:
                    await self._make()
                except OSError as error:
                    if str(error) != failure:  # one message for each reason, not one for each try
                        failure = str(error)
                        self._logger.warning("%s vanished, and cannot be made again yet: %s", self._what, error)
                else:
                    is_missing, failure = False, ""
                    self._logger.warning("%s vanished, and was made again", self._what)
            was_missing = is_missing
