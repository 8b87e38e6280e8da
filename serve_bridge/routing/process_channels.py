"""The channels of one process to an instance: one on a loop thread, one for each other loop, and blocking sockets.

Rule 1: An exception may arrive in the calling thread at any line, such as the time limit of a task queue. The next call
    then continues with the thread and the channel that the interrupted call has begun.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any, Final

from serve_bridge.errors import NotConnected
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.known_instance import KnownInstance, known_instance
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.process.monkey_patches import check_not_patched
from serve_bridge.process.task_set import TaskSet
from serve_bridge.routing.blocking_calls import BlockingCalls
from serve_bridge.routing.channel import Channel
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.shortage import is_shortage

CLOSE_TIMEOUT_S: Final = 5.0
"""Timeout in seconds for each step of closing: the start of the channel, its close, the end of the thread."""

_logger = logging.getLogger("serve_bridge.client")


class ProcessChannels:
    """The channels of one process: one on the process's loop thread, and one for each loop that asks."""

    def __init__(self, instance: Instance, *, lease: bool, address: str = "") -> None:
        """Prepare for *instance*. Its file, or a copy of the file, was found at *address*. Nothing starts yet.

        Raises:
            ConfigError: A library has replaced the sockets or threads of this process (`process.monkey_patches`).
        """
        check_not_patched()
        self._instance = instance
        self._address = address
        self._lease = lease
        self.known: KnownInstance = known_instance(instance.generation)
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._opening: concurrent.futures.Future[Channel] | None = None
        self._channel: Channel | None = None
        self._closing = TaskSet(_logger)
        self.blocking_calls: BlockingCalls = BlockingCalls(self.known.key_of(instance), instance.generation)
        self._channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Channel] = weakref.WeakKeyDictionary()

    def channel(self) -> Channel:
        """Return the channel of the loop thread; the first call starts it.

        Raises:
            NotConnected: This process lacks descriptors or memory for the loop thread.
        """
        if self._channel is None:
            with self._lock:
                if self._channel is None:
                    self._channel = self._opened()
        return self._channel

    def _opened(self) -> Channel:
        if self._thread is None:
            self._thread = _loop_thread()
        opening = self._opening
        if opening is None or (opening.done() and opening.exception() is not None):
            # In an empty context, because the channel outlives the request that needs it first.
            opening = self._opening = contextvars.Context().run(self._thread.submit, self._open)
        return opening.result()

    async def _open(self) -> Channel:
        return Channel(
            self._instance, self.known, lease=self._lease, on_moved=self._moved, on_unknown_key=self._reread_key
        )

    def _moved(self, controller: SocketAddress) -> None:
        """Write the new address of the controller to the file, for the next process to read."""
        if self._address:
            with contextlib.suppress(OSError):  # this process may not write to the directory
                instances.update(Path(self._address), self._instance.generation, controller)

    def _reread_key(self) -> None:
        """Take the key from the file again: the controller does not know the old one any more."""
        found = instances.reread_key(self._address, self._instance.generation)
        own = self.known.key_of(self._instance)
        if found is not None and found.covers(own):
            own.replace(found)

    def channel_here(self) -> Channel:
        """Return the channel of the running loop; the first call starts it.

        Raises:
            NotConnected: The loop has no channel, and this process has waited for the controller in vain.
        """
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            if self.known.given_up:
                self.channel()  # this one keeps trying to connect, since each request may have a short loop of its own
                raise NotConnected(self.known.failure)
            with self._lock:
                for old in [old for old in self._channels if old.is_closed()]:
                    del self._channels[old]
                channel = self._channels[loop] = contextvars.Context().run(
                    partial(Channel, self._instance, self.known, on_moved=self._moved, on_unknown_key=self._reread_key)
                )
        return channel

    def channel_at(self, loop: asyncio.AbstractEventLoop) -> Channel | None:
        """Return the channel of *loop*; None: it has no channel."""
        return self._channels.get(loop)

    @property
    def lost(self) -> bool:
        """Whether a channel has lost its controller."""
        channel = self._channel
        return (channel is not None and channel.controller.lost) or any(
            other.controller.lost and not loop.is_closed() for loop, other in list(self._channels.items())
        )

    def discard(self, items: AsyncGenerator[Any, None]) -> None:
        """Close *items* on the loop thread."""
        channel = self._channel

        async def close() -> None:
            await items.aclose()

        if channel is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the generator with it
                channel.loop.call_soon_threadsafe(lambda: self._closing.start(close()))

    def close(self) -> None:
        """End the loop thread and every channel."""
        self.blocking_calls.close()
        with self._lock:
            opening, thread = self._opening, self._thread
            self._channel = self._opening = self._thread = None
            if thread is not None:
                try:
                    if opening is not None and opening.exception(CLOSE_TIMEOUT_S) is None:
                        thread.submit(opening.result().close).result(CLOSE_TIMEOUT_S)
                finally:
                    thread.stop()
                thread.join(CLOSE_TIMEOUT_S)
            for loop, other in list(self._channels.items()):
                if not loop.is_closed():
                    asyncio.run_coroutine_threadsafe(other.close(), loop)


def _loop_thread() -> LoopThread:
    try:
        return LoopThread("serve_bridge-client")
    except (OSError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise NotConnected(f"this process cannot open an event loop: {error}") from error
