"""The ASGI lifespan of an application in a replica."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

_logger = logging.getLogger("serve_bridge.replica")
LAST_WORDS_S: Final = 1.0
"""Seconds for an application to raise an exception after it reported a failed startup or shutdown."""


class Lifespan:
    """The lifespan of one application in one replica.

    Attributes:
        state: The values stored by the application; each request gets a copy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._ending = asyncio.Event()
        self._announced = False
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Return when the application is ready. An application without a lifespan is ready at once.

        Raises:
            BaseException: The startup failed. This is the application's exception, or a RuntimeError with its message.
        """
        loop = asyncio.get_running_loop()
        self._answers = {"startup": loop.create_future(), "shutdown": loop.create_future()}
        self._task = loop.create_task(self._run())
        await _first(self._task, self._answers["startup"])
        if not self._answers["startup"].done():
            _logger.debug("the application has no lifespan", exc_info=self._raised())
            return
        reason = self._answers["startup"].result()
        if reason is not None:
            await asyncio.wait({self._task}, timeout=LAST_WORDS_S)
            raised = self._raised()
            self.close()
            raise raised or RuntimeError(f"the application's startup failed: {reason}")

    async def shutdown(self, timeout_s: float) -> None:
        """Tell the application to shut down, and wait for it, at most *timeout_s* seconds."""
        task = self._task
        if task is None or task.done():
            return
        self._ending.set()
        ended = self._answers["shutdown"]
        await _first(task, ended, timeout_s)
        reason = ended.result() if ended.done() else "it did not end in time"
        if reason is not None:
            await asyncio.wait({task}, timeout=LAST_WORDS_S)
            _logger.error("the application's shutdown failed: %s", reason, exc_info=self._raised())

    def close(self) -> None:
        """Cancel the lifespan if it still runs."""
        if self._task is not None:
            self._task.cancel()

    def _raised(self) -> BaseException | None:
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def _run(self) -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except (KeyboardInterrupt, SystemExit) as error:  # either would end the loop
            raise RuntimeError(f"the application raised {type(error).__name__}") from error

    async def _receive(self) -> Message:
        if not self._announced:
            self._announced = True
            return {"type": "lifespan.startup"}
        await self._ending.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        protocol, phase, outcome = message["type"].split(".")
        if protocol != "lifespan":
            raise RuntimeError(f"unexpected ASGI message {message['type']!r} in a lifespan")
        answer = self._answers[phase]
        if not answer.done():
            answer.set_result(None if outcome == "complete" else message.get("message") or "it gave no reason")


async def _first(task: asyncio.Future[Any], answer: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    await asyncio.wait({task, answer}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
