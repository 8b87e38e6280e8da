"""A replica: admits the requests of all callers, runs user code for them, and drains without losing a request.

Rule 1: a request above `max_concurrent_queries` is rejected before it starts.
Rule 2: a draining replica rejects new requests and finishes the accepted ones.
Rule 3: a replica has one loop. If user code blocks the loop, the health probe fails.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.context import (
    ReplicaContext,
    begin_request,
    end_request,
    own_process,
    replica_context,
    request_deadline,
    running_request,
)
from serve_bridge.errors import (
    BackendError,
    BackendStartError,
    ConfigError,
    failure_message,
)
from serve_bridge.instance import controller_question, membership
from serve_bridge.instance.known_instance import known_instance
from serve_bridge.process.task_set import TaskSet
from serve_bridge.replica.admission import Admission
from serve_bridge.replica.asgi_application import AsgiService
from serve_bridge.replica.executor import Executor
from serve_bridge.replica.http_requests import answer_http, decode_http
from serve_bridge.replica.loaded_code import LoadedCode
from serve_bridge.replica.python_calls import answer_call
from serve_bridge.replica.ray_calls import RayCalls
from serve_bridge.replica.stall_watch import StallWatch
from serve_bridge.replica.websockets import WebSockets
from serve_bridge.replica.wsgi_application import WsgiService
from serve_bridge.specs import ReplicaSpec
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.method import Method
from serve_bridge.user_code.validation import check_config
from serve_bridge.wire import calls_answered, failure
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.codecs import PICKLED, PLAIN
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.heads import CallHead, HttpHead
from serve_bridge.wire.keys import RETIRED_S, Key, Role
from serve_bridge.wire.listener import Listener, NoFreePort
from serve_bridge.wire.opaque import Opaque
from serve_bridge.wire.replica_end import ReplicaStream

DRAINED_AFTER_QUIET_S: Final = 0.1
"""Seconds without a request after which a replica is drained. Until then a Ray call may still be on its way.

The drain also waits this long for the tasks of WebSockets, after telling them to close.
"""
SETTLE_S: Final = 0.01
"""Seconds for which a request waits after a stall of the loop. Its cancellation may have arrived during the stall."""
LEAST_END_S: Final = 1.0
"""Lower limit in seconds for the time in which an application shuts down, or `close` runs, after a drain."""

_Answering = Callable[[Method, HttpHead, ReplicaStream], Coroutine[Any, Any, None]]

_logger = logging.getLogger("serve_bridge.replica")


class Replica:
    """One copy of a backend: a process, or one thread with the local runtime.

    Attributes:
        ray_calls: The calls arriving as Ray actor calls. `start` sets it.
    """

    def __init__(self, spec: ReplicaSpec, key: Key, *, has_process: bool = False) -> None:
        """Take *spec* and *key*; *has_process*: whether this process runs the replica and nothing more."""
        self._spec = spec
        self._has_process = has_process
        self._config = spec.config
        self._controller = spec.instance.controller
        self._answer_http: _Answering
        self._answer_websocket: _Answering
        self._admission = Admission(spec.config.max_concurrent_queries or 1)
        self._key = key
        self._listener = Listener(self, key, spec.instance.generation, spec.replica)
        self._tasks = TaskSet(_logger)
        self._websockets = WebSockets()
        self._application: AsgiService | WsgiService | None = None
        self._stalls = StallWatch()
        self._ending: asyncio.Task[None] | None = None

    async def start(self) -> SocketAddress:
        """Load and construct user code, then listen, and return the address.

        Raises:
            BackendStartError: User code raised an exception; the error has its traceback as text.
        """
        self._loop = asyncio.get_running_loop()
        spec = self._spec
        membership.join(spec.instance)
        context = ReplicaContext(spec.backend, spec.replica, spec.instance.generation)
        replica_context.set(context)
        if self._has_process:
            own_process(context)
        # The replica may be started during a request, in its context, but does not serve that request.
        request_deadline.set(None)
        running_request.set(None)
        self._context = contextvars.copy_context()
        try:
            code = LoadedCode.load(spec.code, exposed_methods=self._config.exposed_methods)
            check_config(code.code, self._config)
            self._code = code
            self._executor = Executor(code, self._config)
            await self._executor.construct()
            self._methods = code.methods
            await self._choose_answers(code)
            if self._config.user_config is not None:
                await self._reconfigure(self._config.user_config)
        except BaseException as error:  # SystemExit too
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the start was cancelled from outside
            reason = f"{failure.type_of(error)}: {failure.text_of(error)}"
            raise BackendStartError(spec.backend, reason, failure.traceback_of(error)) from None
        self.ray_calls: RayCalls = RayCalls(spec.backend, self._methods, self._executor, self._admission, self._context)
        self._stalls.start()
        network, host = spec.network, spec.tcp_host
        where = Path(spec.directory)
        try:
            address = await self._listener.listen(where, host, network.ports, network.advertised(host or ""))
        except NoFreePort as error:
            raise BackendStartError(spec.backend, f"data_ports={network.data_ports!r}: {error}") from None
        return msgspec.structs.replace(address, streaming=code.streaming)

    async def _choose_answers(self, code: LoadedCode) -> None:
        """Decide once whether methods or an application answer requests; start the application."""
        if not isinstance(code.code, Application):
            self._answer_http = partial(answer_http, self._executor)
            self._answer_websocket = partial(self._websockets.answer, self._executor)
            return
        application: AsgiService | WsgiService
        if code.code.kind == "asgi":
            application = AsgiService(code.application, self._websockets)
        else:
            application = WsgiService(code.application, self._executor)
        self._application = application
        await application.begin()
        self._answer_http, self._answer_websocket = application.answer_http, application.answer_websocket

    # wire.replica_end.Service

    def load(self) -> int:
        """Return the number of running requests and of Ray calls waiting for a slot."""
        admission = self._admission
        return admission.in_flight + len(admission.queue)

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Admit or reject the request of the new *stream*."""
        if frame.kind == Kind.REQUEST:
            if controller_question.is_question(frame):
                controller_question.answer(stream, self._controller)
                return
            head: HttpHead | CallHead = decode_http(frame.payload)
        else:
            head = calls_answered.decode_call(frame.payload)
            # A method of user code could be named like an operation, but a call of user code names a backend.
            if not head.backend and head.call_method.startswith("@"):
                if role is not Role.PYTHON and (role is not Role.CALL or head.call_method != "@completed"):
                    stream.reject("not allowed", "only the engine may ask for it")
                    return
                self._start_control(stream, head)
                return
        admission = self._admission
        name = head.call_method or "__call__"
        method = self._methods.get(name)
        if head.backend != self._spec.backend:
            stream.reject("foreign", self._spec.backend)
        elif admission.is_draining:
            stream.reject("draining")
        elif method is None:
            stream.reject("not exposed", name)
        elif head.timeout_s <= 0:
            stream.reject("expired")
        elif admission.in_flight >= admission.limit:
            stream.reject("full")
        else:
            admission.in_flight += 1
            if isinstance(head, CallHead):
                codec = PLAIN if role is Role.FORWARD else PICKLED
                work = answer_call(self._executor, method, head, stream, codec)
            elif head.subprotocols is None:
                work = self._answer_http(method, head, stream)
            else:
                work = self._answer_websocket(method, head, stream)
            serving = _serve(work, head.timeout_s, head.request_id, settle=self._stalls.has_stalled())
            task = self._loop.create_task(serving, context=self._context.copy())
            stream.on_cancel = task.cancel
            self._tasks.add(task)
            # If a task is cancelled before its first step, none of its code runs. Hence a callback, not a `finally`.
            task.add_done_callback(partial(self._served, work, stream, head.request_id))

    def _served(
        self, work: Coroutine[Any, Any, None], stream: ReplicaStream, request_id: str, task: asyncio.Task[None]
    ) -> None:
        """Free the slot of a request whose task has ended, and end its stream if the task has not."""
        self._tasks.discard(task)
        work.close()
        stream.abort()  # does nothing if the answer has ended
        self._admission.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error(failure_message(self._spec.backend), request_id, exc_info=error)

    # operations of the controller

    def _start_control(self, stream: ReplicaStream, head: CallHead) -> None:
        controls: dict[str, Callable[..., Awaitable[Any]]] = {
            "@check": self.check,
            "@completed": self.completed,
            "@configure": self.configure,
            "@drain": self.drain,
            "@keys": self.renew_keys,
            "@move": self.move,
        }
        control = controls.get(head.call_method)
        if control is None:
            stream.reject("not exposed", head.call_method)
            return
        task = self._tasks.start(calls_answered.answer_control(stream, head, control), self._context.copy())
        stream.on_cancel = task.cancel

    async def check(self) -> None:
        """Answer a health probe through user code.

        Raises:
            BackendError: `check_health` returned False.
            BaseException: `check_health` raised it.
        """
        if self._code.check_health is not None and await self._executor.probe(self._code.check_health) is False:
            raise BackendError("check_health", "it returned False")

    async def completed(self, submitter: str) -> tuple[int, int]:
        """Return how many Ray calls of process *submitter* have ended here, and the load."""
        return self.ray_calls.completed(submitter), self.load()

    async def move(self, controller: SocketAddress) -> None:
        """Note *controller*, the new address of the controller."""
        self._controller = controller
        generation = self._spec.instance.generation
        membership.join(msgspec.structs.replace(self._spec.instance, controller=controller))
        known_instance(generation).controller = controller

    async def renew_keys(self, text: str) -> None:
        """Use the new keys in *text*. Connections with a retired key end when their requests have ended."""
        key = Key.of_text(text)
        self._key.replace(key)
        instance = self._spec.instance.with_key(key)
        self._spec = replace(self._spec, instance=instance)
        membership.join(msgspec.structs.replace(instance, controller=self._controller))
        known_instance(instance.generation).renew_keys(key)
        self._listener.end_stale(RETIRED_S)

    async def configure(self, config: BackendConfig, *, reconfigure: bool) -> None:
        """Use *config* from now on; *reconfigure*: whether its `user_config` is new.

        Raises:
            ConfigError: The code does not support *config*; nothing has changed.
            BaseException: The user's `reconfigure` raised it; the replica itself has changed nothing.
        """
        check_config(self._code.code, config)
        if reconfigure and config.user_config is not None:
            await self._reconfigure(config.user_config)
        self._executor.configure(config)
        self._config = config
        self._admission.change_limit(config.max_concurrent_queries or 1)

    async def drain(self, grace_s: float) -> bool:
        """Reject new requests and finish the accepted ones; return whether all ended within *grace_s* seconds.

        WebSockets still open then close with "going away". In the end, an application shuts down, or the
        `close` of user code runs.
        """
        deadline = time.monotonic() + grace_s
        drained = await self._drain(deadline)
        left_s = max(deadline - time.monotonic(), LEAST_END_S)
        if self._application is not None:
            await self._application.end(left_s)
        else:
            await self._end_code(left_s)
        # Routers may have connected since the drain began, and this process is killed after the drain.
        await self._listener.leave()
        return drained

    async def _end_code(self, timeout_s: float) -> None:
        # A second controller drains again if the first one died during the drain; `close` runs once all the same.
        if self._ending is None:
            close = self._code.close
            self._methods = self.ray_calls.methods = {}
            self._ending = self._loop.create_task(self._executor.end(close), context=self._context.copy())
            self._tasks.add(self._ending)
        ending = self._ending
        await asyncio.wait([ending], timeout=timeout_s)
        if not ending.done():
            _logger.warning("backend %r: close() did not end within %.1f s", self._spec.backend, timeout_s)
        elif not ending.cancelled() and (error := ending.exception()) is not None:
            _logger.error("backend %r: close() failed", self._spec.backend, exc_info=error)

    async def _drain(self, deadline: float) -> bool:
        # It still listens: if the controller dies now, the next one connects, and drains it to the end.
        self._admission.is_draining = True
        self._listener.go_away()
        while time.monotonic() < deadline:
            if self.load() == 0 and time.monotonic() - self._admission.last_release >= DRAINED_AFTER_QUIET_S:
                return True
            await asyncio.sleep(DRAINED_AFTER_QUIET_S / 4)
        if self._websockets:  # a WebSocket has no deadline
            self._websockets.go_away()
            await asyncio.sleep(DRAINED_AFTER_QUIET_S)
        return self.load() == 0

    def close(self) -> None:
        """Cancel all requests and close all connections at once."""
        self._listener.close()
        self._stalls.stop()
        for task in list(self._tasks):
            task.cancel()
        if self._application is not None:
            self._application.close()
        if hasattr(self, "_executor"):
            self._executor.close()

    async def _reconfigure(self, user_config: Any) -> None:
        if self._code.reconfigure is None:
            raise ConfigError("user_config needs a class with a method `reconfigure(self, user_config)`")
        value = user_config.open() if isinstance(user_config, Opaque) else user_config
        await self._executor.run_hook(self._code.reconfigure, value)


async def _serve(work: Coroutine[Any, Any, None], timeout_s: float, request_id: str, *, settle: bool) -> None:
    begin_request(time.monotonic() + timeout_s, request_id or None)
    try:
        if settle:  # the loop first reads the bytes behind the request: the caller may have cancelled it long ago
            await asyncio.sleep(SETTLE_S)
        await work
    finally:
        end_request()
