"""Calls arriving as Ray actor calls. They wait for a slot, because Ray bounds their number, not the replica.

Rule 1: the replica counts the Ray calls of each caller's process, so the caller can ask how many have ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from serve_bridge.context import begin_request, end_request, replica_context
from serve_bridge.errors import CALL_HINT, MethodNotExposed, no_answer
from serve_bridge.replica.admission import Admission
from serve_bridge.replica.executor import Executor, is_stream
from serve_bridge.replica.python_calls import run_call
from serve_bridge.user_code.method import Method
from serve_bridge.wire import failure
from serve_bridge.wire.heads import CallHead

MOST_SUBMITTERS: Final = 10_000
"""Upper limit for processes whose Ray calls a replica counts. The process with the oldest last call is dropped."""


class RayCalls:
    """The Ray calls of one replica.

    Attributes:
        methods: The methods open to calls, by name.
    """

    def __init__(
        self,
        backend: str,
        methods: Mapping[str, Method],
        executor: Executor,
        admission: Admission,
        context: contextvars.Context,
    ) -> None:
        """Run calls of *backend* on *executor*, within the replica's *context*."""
        self.methods = methods
        self._backend = backend
        self._executor = executor
        self._admission = admission
        self._context = context
        self._completed: OrderedDict[str, int] = OrderedDict()

    async def call(self, head: CallHead, data: Any, kwargs: dict[str, Any]) -> Any:
        """Run a call once a slot is free, and return its result.

        Raises:
            MethodNotExposed: The backend has no such method.
            DeadlineExceeded: No slot came free, or the call did not end, within its time.
            BaseException: User code raised it.
        """
        try:
            return await self._call(head, data, kwargs)
        finally:
            self._note_completed(head.submitter)

    def completed(self, submitter: str) -> int:
        """Return how many Ray calls of process *submitter* have ended here."""
        return self._completed.get(submitter, 0)

    async def _call(self, head: CallHead, data: Any, kwargs: dict[str, Any]) -> Any:
        method = self.methods.get(head.call_method or "__call__")
        if method is None:
            raise MethodNotExposed(self._backend, head.call_method)
        deadline = time.monotonic() + head.timeout_s
        await self._admission.take(head.endpoint, head.timeout_s)
        replica_context.set(self._context[replica_context])
        begin_request(deadline, head.request_id or None)
        overdue = asyncio.timeout(deadline - time.monotonic())
        try:
            async with overdue:
                result = await run_call(self._executor, method, head, data, kwargs)
                return [item async for item in result] if is_stream(result) else result
        except TimeoutError:
            if overdue.expired():
                raise no_answer(head.endpoint, head.timeout_s, "unknown", CALL_HINT) from None
            raise
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # SystemExit would end the actor, and Ray drops an error without a pickled form
            own = failure.portable(error)
            if own is error:
                raise
            raise own from None
        finally:
            end_request()
            self._admission.release()

    def _note_completed(self, submitter: str) -> None:
        completed = self._completed
        completed[submitter] = completed.get(submitter, 0) + 1
        completed.move_to_end(submitter)
        if len(completed) > MOST_SUBMITTERS:
            completed.popitem(last=False)
