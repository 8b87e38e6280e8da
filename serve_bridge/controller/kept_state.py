"""The state that outlives the cluster: the wanted state in the files of the instance's state directory.

Rule 1: only changes of the wanted state are written. Requests, and starts and ends of processes, write nothing.
Rule 2: files are written on a thread, one state after another.
Rule 3: an instance without a state directory keeps no state, and all methods do nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.errors import ConfigError
from serve_bridge.process.engine_threads import on_engine_thread
from serve_bridge.state.document import encode
from serve_bridge.state.records import Recorder
from serve_bridge.state.state_files import StateFiles

_logger = logging.getLogger("serve_bridge.controller")


class KeptState:
    """The kept state of one instance."""

    def __init__(self, instance: str, directory: str | None, *, fresh: bool = False) -> None:
        """Keep the state of *instance* in *directory*; None: nowhere. With *fresh*, begin with an empty state."""
        self._files = StateFiles(Path(directory)) if directory is not None else None
        self._fresh = fresh
        self._recorder = Recorder(instance)

    async def open(self) -> WantedState | None:
        """Lock the state, and return what a former instance has left; None if it has left nothing.

        Raises:
            ConfigError: The state cannot be used. The message has its path and the remedy.
        """
        if self._files is None:
            return None
        await _whole(self._files.lock)
        if self._fresh:
            return None
        found = await _whole(self._files.read)
        if found is None:
            return None
        record, blob = found
        return WantedState(*await _whole(record.restored, blob))

    async def reopen(self, wanted: WantedState) -> None:
        """Keep the state of a recovered controller, which is *wanted*.

        A failure is logged, and the next change tries again. The files may be older: the former controller may have
        ended before it wrote them, or may have run on another node.
        """
        if self._files is None:
            return
        try:
            await _whole(self._files.lock)
            try:
                await _whole(self._files.read)
            except ConfigError as error:
                _logger.warning("the kept state is replaced by that of the running instance: %s", error)
            await self.write(wanted)
        except (ConfigError, OSError) as error:
            _logger.warning("the state is not kept, and the next change tries again: %s", error)

    async def begin(self, wanted: WantedState) -> None:
        """Write the first state of a new instance.

        Raises:
            OSError: It cannot be written; a former state is as before.
        """
        if self._files is not None:
            if self._fresh:
                await _whole(self._files.set_aside)
            await self.write(wanted)

    async def write(self, wanted: WantedState, *, keep_previous: bool = True) -> None:
        """Replace the state by *wanted*.

        Raises:
            ConfigError, OSError: It cannot be written; the files are as before.
        """
        if self._files is None:
            return
        files = self._files
        wanted = wanted.copy()  # the thread must not see later changes

        def work() -> None:
            record, blobs = self._recorder.record(wanted.backends, wanted.endpoints, wanted.unfinished)
            files.lock()
            files.write(record, blobs, keep_previous=keep_previous)

        await _whole(work)

    async def exported(self, wanted: WantedState, *, with_code: bool) -> bytes:
        """Return *wanted* as a document, whether or not the instance keeps its state."""
        wanted = wanted.copy()

        def work() -> bytes:
            record, blobs = self._recorder.record(wanted.backends, wanted.endpoints, wanted.unfinished)
            return encode(record, code=blobs if with_code else None)

        document: bytes = await _whole(work)
        return document

    async def forget(self) -> None:
        """Remove the state."""
        if self._files is not None:
            await _whole(self._files.forget)

    def close(self) -> None:
        """Release the state for the next instance. Its files stay."""
        if self._files is not None:
            self._files.close()


async def _whole(work: Callable[..., Any], *args: Any) -> Any:
    """Return the result of *work* on a thread. If the caller is cancelled, wait for its end first (Rule 2)."""
    running = asyncio.ensure_future(on_engine_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
