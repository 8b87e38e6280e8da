"""The shutdown of an instance: one, for all callers that ask for it.

Rule 1: a failed step does not keep the later ones from running. The controller ends in any case.
Rule 2: an instance that has ended is forgotten if one of the callers asks for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.controller.kept_state import KeptState
from serve_bridge.errors import ControlPlaneLost
from serve_bridge.instance.key_files import forget_keys
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire.keys import Key

ANSWER_S: Final = 0.05
"""Seconds for the answers to the callers, before the controller closes its connections."""
WAY_OUT: Final = (
    "If it has gone for good, run `ray stop` on each node and then `serve-bridge shutdown`, which removes the files"
)

_logger = logging.getLogger("serve_bridge.controller")


class Ending:
    """The end of one instance.

    Attributes:
        has_begun: Whether the instance shuts down.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        key: Key,
        checkpoints: Checkpoints,
        kept: KeptState,
        steps: Sequence[Callable[[], Awaitable[None]]],
        *,
        on_end: Callable[[], object],
    ) -> None:
        """End the instance by *steps*, one after another, and call *on_end* once the callers have their answers."""
        self._spec = spec
        self._key = key
        self._checkpoints = checkpoints
        self._kept = kept
        self._steps = steps
        self._on_end: Callable[[], object] | None = on_end
        self._forgets = False
        self._work: asyncio.Future[None] | None = None
        self.has_begun: bool = False

    async def shutdown(self, forget: bool = True) -> None:
        """Drain and end the proxies and replicas, delete the checkpoint and the files, and end the controller.

        With *forget* the kept state is deleted too, and the keys that were kept in the state directory. All calls wait
        for the same end.

        Raises:
            ControlPlaneLost: The runtime cannot end processes now. Nothing has changed.
            OSError: The instance has ended, but not all of its state and keys could be deleted.
        """
        if not self.has_begun:
            try:
                await self._checkpoints.check_store()
            except ControlPlaneLost as error:
                raise ControlPlaneLost(f"{error}. {WAY_OUT}") from error
        self.has_begun = True
        self._forgets |= forget
        if self._work is None:
            self._work = asyncio.ensure_future(self._end())
        try:
            await asyncio.shield(self._work)
        finally:
            self._end_controller()

    def _end_controller(self) -> None:
        # Not at the end of `_end`: the callers resume some turns of the loop later, and a busy loop may need as long.
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            asyncio.get_running_loop().call_later(ANSWER_S, on_end)

    async def _end(self) -> None:
        for step in self._steps:
            try:
                await step()
            except Exception:
                _logger.exception("instance %r: shutdown", self._spec.name)
        if self._forgets:
            await self._forget()

    async def _forget(self) -> None:
        try:
            await self._kept.forget()
            if self._spec.keeps_keys and self._spec.network.key_file is None:
                await asyncio.to_thread(forget_keys, self._spec.name, self._key.id, self._spec.state)
        except OSError as error:
            raise OSError(
                f"instance {self._spec.name!r} has ended, but not all of its state and keys could be removed: "
                f"{error.filename or self._spec.state}: {error.strerror or error}; correct the directory and remove "
                "what is left, or begin empty with `serve-bridge start --fresh`"
            ) from None
