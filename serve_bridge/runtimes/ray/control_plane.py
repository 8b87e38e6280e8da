"""Calls of the controller to Ray's control plane (the GCS), each on a thread and with an upper limit.

Rule 1: the event loop never waits for the GCS. A GCS that has gone blocks a thread, and callers get an error in time.
Rule 2: writes run one after another: a late one cannot overwrite a newer one, and the kill of an actor follows its
    creation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

from ray.exceptions import RpcError

from serve_bridge.errors import ControlPlaneLost

CALL_S: Final = 4.0
"""Upper limit for a call, in seconds."""
CALL_WHILE_LATE_S: Final = 0.5
"""Upper limit for a call while an earlier call is late, in seconds. The GCS then probably has gone."""
_THREADS: Final = 16
"""Upper limit for calls at a time. More calls wait for a thread."""

_Result = TypeVar("_Result")


class ControlPlane:
    """Ray's control plane, as one process calls it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "serve_bridge-gcs")
        self._writer = ThreadPoolExecutor(1, "serve_bridge-gcs-writer")
        self._late: set[Future[Any]] = set()

    async def call(self, work: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        """Return the result of *work*, which calls the GCS.

        Raises:
            ControlPlaneLost: The GCS does not answer in time, or cannot be reached. *work* may still happen.
            Exception: The error of *work*.
        """
        return await self._bounded(self._threads.submit(copy_context().run, partial(work, *args, **kwargs)))

    async def write(self, work: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        """Do the same as `call`, after all earlier writes."""
        return await self._bounded(self._writer.submit(copy_context().run, partial(work, *args, **kwargs)))

    async def insist(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """Do the same as `write`, but *work* happens in any case, once the GCS answers."""
        return await self._bounded(self._writer.submit(copy_context().run, partial(work, *args)), insist=True)

    async def _bounded(self, running: Future[_Result], *, insist: bool = False) -> _Result:
        limit_s = CALL_WHILE_LATE_S if self._late else CALL_S
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(asyncio.wrap_future(running))
        except TimeoutError:
            if insist or not running.cancel():
                self._late.add(running)
                running.add_done_callback(self._late.discard)
            raise ControlPlaneLost(
                f"Ray's control plane (GCS) does not answer within {limit_s:g} s; try again once it is back"
            ) from None
        except RpcError as error:
            raise ControlPlaneLost(f"Ray's control plane (GCS) cannot be reached: {error}") from error
