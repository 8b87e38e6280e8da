"""An event loop with a clock of its own: time passes only while every process waits, and then at once.

Rule 1: the loop does no I/O. Nothing outside it can wake it, so the same inputs give the same run.
Rule 2: each step belongs to a process. A stopped process makes its steps when it continues; a dead one never does.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, Final

_Step = tuple[Callable[..., object], tuple[Any, ...], contextvars.Context]

PROCESS: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar("simulated_process", default=None)
"""The process of the running step."""
_pids: Final = itertools.count(1_000_000)


class Process:
    """A process of the simulation: what runs in its context can be stopped and killed together.

    Attributes:
        name: Its name.
        pid: Its number, which no process of the machine has.
        is_dead: Whether it was killed.
        is_stopped: Whether it makes no steps now.
        held: The steps that it did not make.
    """

    def __init__(self, name: str, loop: SimulatedLoop) -> None:
        self.name = name
        self.pid = next(_pids)
        self.is_dead = self.is_stopped = False
        self.held: list[_Step] = []
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(PROCESS.set, self)
        loop.processes.append(self)

    @property
    def context(self) -> contextvars.Context:
        """A context of this process."""
        return self._context.copy()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run *work* in this process."""
        return self._loop.create_task(work, context=self.context)

    def resume(self) -> None:
        """Continue after a stop."""
        self.is_stopped = False
        held, self.held = self.held, []
        for callback, args, context in held:
            self._loop.call_soon(callback, *args, context=context)


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop of all processes.

    Attributes:
        processes: All processes so far.
        errors: What its exception handler was told.
        steps: Number of steps that processes have made.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._selector = self  # BaseEventLoop asks for I/O here
        self._is_burying = False
        self.processes: list[Process] = []
        self.errors: list[dict[str, Any]] = []
        self.steps = 0
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """Return the time of the simulation."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Let time pass until the next timer."""
        if timeout is None:
            raise RuntimeError("every process waits, and none for a timer")
        self._now += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        """Call *callback* in the next turn, as a step of the process of *context*."""
        context = contextvars.copy_context() if context is None else context
        process = context.get(PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(self._step, process, callback, args, context=context)

    def call_soon_threadsafe(
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Do as `call_soon` does: the simulation has one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call *callback* at the time *when*, as a step of the process of *context*."""
        context = contextvars.copy_context() if context is None else context
        process = context.get(PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, self._step, process, callback, args, context=context)

    def _step(self, process: Process, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if (process.is_dead or process.is_stopped) and not self._is_burying:
            process.held.append((callback, args, contextvars.copy_context()))
        else:
            self.steps += 1
            callback(*args)

    def run_in_executor(  # type: ignore[override]  # the loop has no threads
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call *func* at once."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def bury(self, remains: Callable[[], Iterable[Any]]) -> None:
        """End all tasks, those of dead processes too, and close what *remains* then."""
        self._is_burying = True
        for process in self.processes:
            process.resume()
        for _ in range(10):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.wait(tasks, timeout=60))

        async def close() -> None:
            for each in remains():
                each.close()

        self.run_until_complete(close())
        self.errors.clear()
        self.close()
