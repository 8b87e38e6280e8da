"""A run of the simulation: an instance, two web processes, and what a seed makes happen to them.

The controller, the replicas, the routers and the protocol between them are the real ones. Time, network, processes and
the store of the checkpoint are simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from serve_bridge.client.call_options import CallOptions
from serve_bridge.client.python_call import PythonCall, answer_of
from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.controller.controller import Controller
from serve_bridge.controller.repairs import StartFailures
from serve_bridge.controller.tracked_replica import SERVING
from serve_bridge.errors import NotConnected, ServeBridgeError
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.known_instance import KnownInstance
from serve_bridge.instance.operations import Operation
from serve_bridge.management.arguments import checked_backend
from serve_bridge.routing import controller_link
from serve_bridge.routing.channel import Channel
from serve_bridge.specs import BackendUpdate, InstanceSpec
from serve_bridge.wire import payload
from serve_bridge.wire.heads import CallHead
from serve_bridge.wire.keys import Key
from serve_bridge.wire.segments import join
from tests.faults.support.oracle import Outcome, Run, payload_of, violations
from tests.local.simulation.support import recorder
from tests.local.simulation.support.cluster import Cluster
from tests.local.simulation.support.loop import PROCESS, Process, SimulatedLoop
from tests.local.simulation.support.network import LONGEST_DELAY_S, LONGEST_SILENCE_S, Network

LONGEST_STOP_S: Final = 4.0
"""Upper limit for the time for which a process is stopped, in seconds."""
RECOVERY_S: Final = 300.0
"""Upper limit for the time until everything is well again after the last fault, in seconds."""
ROOMS: Final = (({"max_surge": 0, "max_unavailable": 1}, {"max_surge": 1}), ({"max_surge": 1},))
"""The room of updates, and that of updates during which no request may fail."""
PATIENCE_S: Final = 60.0
"""Upper limit for a change, in seconds."""
BETWEEN_KILLS_S: Final = 2.0
"""Seconds between two kills of the controller for which no request may fail: 30 kills a minute."""
CONFIG: Final = {"num_replicas": 2, "max_concurrent_queries": 4, "health_check_period_s": 2.0}
FAULTS: Final = ("kill replica", "stop process", "cut connection", "silence connection", "kill controller", "cancel")
"""The faults. Each seed chooses some of them."""
ANSWERS: Final = {(200, ""), (502, "unknown"), (503, "no"), (504, "no"), (504, "unknown"), (CANCELLED := 499, "")}
"""The statuses and proofs that callers may see."""


@dataclass
class Findings:
    """The result of a run.

    Attributes:
        run: What was sent, what ran, and how it went.
        problems: What is wrong; empty: nothing is.
        happened: How often each kind of step was made.
        steps: Number of steps that processes have made.
    """

    run: Run
    problems: list[str]
    happened: Counter[str]
    steps: int


@dataclass
class _Web:
    process: Process
    channel: Channel


@dataclass
class World:
    """An instance, and the faults and changes of one seed.

    Attributes:
        seed: Decides everything.
        is_gentle: Whether only changes are made, and only the controller dies. Then no request may fail.
    """

    seed: int
    is_gentle: bool = False
    problems: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.loop = SimulatedLoop()
        self.network = Network(self.loop, self.chance)
        self.cluster = Cluster(self.loop, self.network, self.chance)
        self.outcomes: list[Outcome] = []
        self.sent: list[str] = []
        self.updated: dict[str, float] = {}
        self._version = 1
        self._changing: set[str] = set()
        self._controllers: list[Controller] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        chosen = self.chance.sample(FAULTS, self.chance.randrange(1, len(FAULTS) + 1))
        self._faults = ["kill controller"] if self.is_gentle else chosen
        stops = LONGEST_STOP_S + LONGEST_SILENCE_S if "stop process" in self._faults else 0.0
        self._slack_s = 2 * LONGEST_DELAY_S + stops
        self._calm_until = 0.0
        self._is_over = False

    # the run

    def play(self, steps: int) -> Findings:
        """Make *steps* random steps, then let everything become well."""
        recorder.journal.clear()
        with _own_surroundings(self.loop, self.seed) as directory:
            self._spec = InstanceSpec(
                name="simulated",
                generation="g",
                runtime="local",
                directory=str(directory / "g"),
                detached=True,
                tcp_host=None,
                http=HTTPOptions(host=None, location="NoServer"),  # type: ignore[arg-type]
            )
            self._key = Key()
            try:
                self.loop.run_until_complete(self._play(steps))
            finally:
                run = Run(list(recorder.journal), self.outcomes, self.sent)
                made, errors = self.loop.steps, list(self.loop.errors)
                self.loop.bury(lambda: [*self.cluster.made, *self._controllers, self.network])
        self.problems += [f"{name}: {found}" for name, found in violations(run, self.updated).items()]
        self.problems += [f"unhandled: {error.get('exception') or error}" for error in errors]
        seen = {(outcome.status, outcome.executed) for outcome in self.outcomes}
        self.problems += [f"an answer {answer}" for answer in sorted(seen - ANSWERS)]
        if self.is_gentle:
            self.problems += [f"failed: {outcome}" for outcome in run.failed()]
        return Findings(run, self.problems, self.happened, made)

    async def _play(self, steps: int) -> None:
        instance = await self._start_controller()
        self._webs = [self._web(f"web-{number}", instance) for number in range(2)]
        await self._change(Operation.CREATE_BACKEND, self._backend("m", "m1"))
        await self._change(Operation.CREATE_BACKEND, self._backend("n", "n1"))
        await self._change(Operation.CREATE_ENDPOINT, "e", "m", None, ("GET",))
        for _ in range(steps):
            name = self._next()
            self.happened[name] += 1
            self._act(name)
            await asyncio.sleep(self.chance.expovariate(20))
        await self._recover()

    def _next(self) -> str:
        draw = self.chance.random()
        if draw < 0.6:
            return "request"
        if draw < 0.75:
            return self.chance.choice(("update", "update in room", "bad update", "scale", "limit", "traffic"))
        return self.chance.choice(self._faults)

    def _act(self, name: str) -> None:
        acts: dict[str, Callable[[], None]] = {
            "request": self._send_some,
            "update": self._update,
            "update in room": lambda: self._update(**self.chance.choice(ROOMS[self.is_gentle])),
            "bad update": self._update_badly,
            "scale": lambda: self._configure({"num_replicas": self.chance.randrange(1, 5)}),
            "limit": lambda: self._configure({"max_concurrent_queries": self.chance.randrange(1, 6)}),
            "traffic": self._split,
            "kill replica": self._kill_replica,
            "stop process": self._stop_process,
            "cut connection": lambda: self._cut(silent=False),
            "silence connection": lambda: self._cut(silent=True),
            "kill controller": self._kill_controller,
            "cancel": lambda: self._send(cancel_after_s=self.chance.random() * 0.1),
        }
        acts[name]()

    def _start(self, work: Coroutine[Any, Any, Any], process: Process | None = None) -> asyncio.Task[Any]:
        task = self.loop.create_task(work) if process is None else process.start(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # the processes

    def _start_controller(self) -> asyncio.Future[Instance]:
        self._controller_process = Process("controller", self.loop)
        made: asyncio.Future[Instance] = self.loop.create_future()

        async def run() -> None:
            self._controller = Controller(self._spec, self._key, self.cluster)
            self._controllers.append(self._controller)
            instance = await self._controller.start()
            if not made.done():
                made.set_result(instance)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.problems.append(f"the controller did not start: {type(error).__name__}: {error}")

        self._controller_process.start(run()).add_done_callback(ended)
        self._started = made
        return made

    def _web(self, name: str, instance: Instance) -> _Web:
        process = Process(name, self.loop)
        return _Web(process, process.context.run(Channel, instance, KnownInstance()))

    def _replica_process(self) -> Process | None:
        running = [process for process, _ in self.cluster.running.values()]
        return self.chance.choice(running) if running else None

    # faults

    def _kill_replica(self) -> None:
        if (process := self._replica_process()) is not None:
            self.cluster.kill(process)

    def _stop_process(self) -> None:
        process = self._replica_process() if self.chance.random() < 0.8 else self._controller_process
        if process is not None and not process.is_dead and not process.is_stopped:
            process.is_stopped = True
            self.loop.call_later(self.chance.random() * LONGEST_STOP_S, process.resume)

    def _cut(self, *, silent: bool) -> None:
        if connections := self.network.open():
            self.network.cut(self.chance.choice(connections), silent=silent)

    def _kill_controller(self) -> None:
        """Kill it at some moment, which may be in the middle of a change; the cluster starts another one."""
        process = self._controller_process
        if self.is_gentle and self.loop.time() < self._calm_until:
            return
        self._calm_until = self.loop.time() + BETWEEN_KILLS_S

        def kill() -> None:
            if not process.is_dead and not self._is_over:
                self.cluster.kill(process)
                self.loop.call_later(self.chance.random(), self._start_controller)

        self.loop.call_later(self.chance.random() * 0.3, kill)

    # changes

    def _backend(self, name: str, version: str, code: type = recorder.Recorder) -> Any:
        return checked_backend(name, code, (version,), {}, BackendConfig.of(CONFIG), None)  # type: ignore[arg-type]

    async def _change(self, operation: Operation, *args: Any) -> None:
        """Let a web process ask for a change, and wait for its end."""
        web = self.chance.choice(self._webs)
        await web.process.start(web.channel.controller.call(operation, *args, timeout_s=PATIENCE_S))

    def _begin_change(self, backend: str, operation: Operation, *args: Any, then: Callable[[], None]) -> None:
        if backend in self._changing:
            return
        self._changing.add(backend)

        async def change() -> None:
            try:
                await self._change(operation, *args)
            except ServeBridgeError:
                return
            finally:
                self._changing.discard(backend)
            then()

        self._start(change())

    def _update(self, code: type = recorder.Recorder, **room: int) -> None:
        self._version += 1
        version, replaced = f"m{self._version}", [f"m{number}" for number in range(1, self._version)]
        new = self._backend("m", version, code)
        update = BackendUpdate(name="m", code=new.code, is_async=new.is_async, is_application=False, **room)

        def done() -> None:
            if code is not recorder.Recorder:
                self.problems.append("an update to code that cannot start has succeeded")
            for old in replaced:
                self.updated.setdefault(old, self.loop.time())

        self._begin_change("m", Operation.UPDATE_BACKEND, update, then=done)

    def _update_badly(self) -> None:
        self._update(recorder.Unstartable, **self.chance.choice(({}, {"max_surge": 1})))

    def _configure(self, options: dict[str, Any]) -> None:
        name = self.chance.choice(("m", "n"))
        config = BackendConfig.of(options)  # type: ignore[arg-type]
        self._begin_change(name, Operation.UPDATE_BACKEND_CONFIG, name, config, then=lambda: None)

    def _split(self) -> None:
        share = self.chance.choice((0.0, 0.5, 1.0))
        self._begin_change("e", Operation.SET_TRAFFIC, "e", {"m": share, "n": 1 - share}, then=lambda: None)

    # requests

    def _send_some(self) -> None:
        for _ in range(self.chance.choice((1, 1, 2, 6))):
            self._send()

    def _send(self, *, cancel_after_s: float | None = None) -> None:
        id = f"r{len(self.sent)}"
        self.sent.append(id)
        web = self.chance.choice(self._webs)
        work_s = self.chance.choice((0.0, 0.001, 0.01, 0.01, 0.1, 1.0))
        timeout_s = PATIENCE_S if self.is_gentle else self.chance.choice((0.05, 0.5, 5.0, 20.0))
        sending = self._start(self._ask(web, id, self.chance.random() < 0.5, work_s, timeout_s), web.process)
        if cancel_after_s is not None:
            self.loop.call_later(cancel_after_s, sending.cancel)

    async def _ask(self, web: _Web, id: str, idempotent: bool, work_s: float, timeout_s: float) -> None:
        body = join(payload.pack((payload_of(id), {"id": id, "work_s": work_s})))
        head = CallHead("e", "", 0, timeout_s, id, "", "GET", None, False, len(body), body)
        options = CallOptions(http_method="GET" if idempotent else None)
        sent = self.loop.time()
        try:
            answer = await answer_of(web.channel, PythonCall(head, options, timeout_s, None))
            found = {
                "status": 200,
                "echoed": answer["id"],
                "digest": answer["digest"],
                "version": answer["version"],
                "replica": str(answer["pid"]),
            }
        except ServeBridgeError as error:
            found = {
                "status": error.http_status or 500,
                "executed": getattr(error, "executed", ""),
                "error": f"{type(error).__name__}: {error}",
            }
        except asyncio.CancelledError:
            found = {"status": CANCELLED, "error": "cancelled"}
        self.outcomes.append(
            Outcome(
                id=id,
                kind="idempotent" if idempotent else "other",
                intended=sent,
                sent=sent,
                done=self.loop.time(),
                deadline=sent + timeout_s + self._slack_s,
                **found,  # type: ignore[arg-type]
            )
        )

    # the end

    async def _recover(self) -> None:
        """Let faults end, wait until everything is well, and end the instance."""
        self._is_over = self.network.is_calm = True
        for process in self.loop.processes:
            if not process.is_dead:
                process.resume()
        ends = self.loop.time() + RECOVERY_S
        while what := self._not_well():
            if self.loop.time() > ends:
                self.problems.append(f"not well after {RECOVERY_S:g} s: {what}")
                return
            await asyncio.sleep(0.25)
        for web in self._webs:
            id = f"last-{web.process.name}"
            self.sent.append(id)
            await self._start(self._ask(web, id, False, 0.0, PATIENCE_S), web.process)
        self.problems += [f"not answered in the end: {o}" for o in self.outcomes if o.id[0] == "l" and not o.ok]
        with contextlib.suppress(NotConnected):  # its answer may be lost
            await self._change(Operation.SHUTDOWN)
        await asyncio.sleep(5.0)
        left = [*self.cluster.running, *self.cluster.store.values]
        if left or not self.cluster.has_ended_the_controller:
            self.problems.append(f"left after the shutdown: {left}")

    def _not_well(self) -> str:
        """Return what keeps the instance from being whole and at rest; "": nothing does."""
        if self._tasks:
            return f"{len(self._tasks)} requests and changes go on"
        if self.network.unnoticed:
            return "processes do not know yet that their connections are broken"
        if not self._started.done() or self._controller_process.is_dead:
            return "there is no controller"
        state, tracked = self._controller._state, {replica.id for replica in self._controller._replicas}
        if tracked != set(self.cluster.running):
            return f"replicas {sorted(self.cluster.running)} run, and the controller knows {sorted(tracked)}"
        for name, backend in state.wanted.backends.items():
            ready = self._controller._replicas.ready({name: frozenset({backend.revision})}).get(name, ())
            if len(ready) != backend.config.num_replicas:
                return f"{len(ready)} replicas of {name} are ready, and {backend.config.num_replicas} wanted"
        for web in self._webs:
            router = web.channel.router
            if router.version != state.version:
                return f"{web.process.name} has table {router.version}, and the newest is {state.version}"
            for name, pool in router._pools.items():
                serving = {replica.id for replica in self._controller._replicas.of(name, *SERVING)}
                if {slot.name for slot in pool.replicas} != serving:
                    return f"{web.process.name} has other replicas of {name} than the controller"
                busy = [slot for slot in pool.replicas if slot.in_flight or slot.down]
                if busy or pool.waiting or not pool.emptied:
                    return f"{web.process.name}: {busy} are busy or down, {pool.waiting} requests wait"
        for _, replica in self.cluster.running.values():
            if replica.load():
                return f"a replica says that it has {replica.load()} requests"
        return ""


@contextlib.contextmanager
def _own_surroundings(loop: SimulatedLoop, seed: int) -> Iterator[Path]:
    """Let the clock be that of *loop*, and all chance that of *seed*; yield a directory for sockets."""
    chance = random.getstate()
    directory = Path(tempfile.mkdtemp(prefix="sb-"))
    gc.freeze()  # replicas collect garbage as they end, which takes long with the objects of a test run
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        patch.setattr(time, "monotonic", loop.time)
        patch.setattr(StartFailures.__init__, "__defaults__", (loop.time,))
        patch.setattr(controller_link, "process_id", lambda: getattr(PROCESS.get(), "name", ""))
        random.seed(seed)
        try:
            yield directory
        finally:
            random.setstate(chance)
            gc.unfreeze()
            shutil.rmtree(directory, ignore_errors=True)
