"""Row 6: four replicas, one ten times slower than the others, and four policies that choose among them.

The policy of serve_bridge does not know the replicas' speeds. It learns a replica's load from each of its answers. The
other three policies run in the caller, over four backends of one replica each:

- in turn;
- the fewest requests in flight;
- the shortest time until the answer, from the known speed of every replica.

The last two policies know all requests in flight, because there is only one caller.

Rule 1: all policies use the same engine, the same code and the same due times. Only the choice differs.
Rule 2: the loop is open. A latency begins when the request is due, even if the caller is late.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import uvloop

from benchmarks import BODY
from benchmarks.contenders.contender import IN_FLIGHT, Contender, Entry
from benchmarks.contenders.entries import OURS
from benchmarks.contenders.stage import Stage
from benchmarks.load.calls import Timing, timing
from benchmarks.trial import Trial

FAST_S: Final = 0.002
SLOW_S: Final = 0.020
REPLICAS: Final = 4
CAPACITY: Final = (REPLICAS - 1) / FAST_S + 1 / SLOW_S
"""Capacity of all four replicas, in requests a second."""
LOADS: Final[Mapping[str, float]] = {"uneven-10": 0.1, "uneven-50": 0.5}
"""Loads as shares of the capacity. The slow replica can serve a quarter of the first load, but not of the second."""
SEED: Final = 1
LATE_S: Final = 60.0
"""Upper limit for the time of a call, in seconds."""
TURNS: Final = "round-robin"
FEWEST: Final = "fewest-in-flight"
SOONEST: Final = "soonest-answer"
_CALLER: Final = Entry("uneven-caller", "a process without Ray", "benchmarks.rows.uneven:Chooser")

Send = Callable[[], Awaitable[object]]


def answer(service_s: float) -> bytes:
    """Block for *service_s* seconds, like a model with one request at a time."""
    time.sleep(service_s)
    return BODY


class Work:
    """A backend with one speed."""

    def __init__(self, service_s: float) -> None:
        self._service_s = service_s

    def __call__(self, request: object) -> bytes:
        """Work, then answer."""
        return answer(self._service_s)


class UnevenWork:
    """Four replicas of one backend. The first replica to create the file *mark* is the slow one."""

    def __init__(self, mark: str) -> None:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            self._service_s = SLOW_S
        except FileExistsError:
            self._service_s = FAST_S

    def __call__(self, request: object) -> bytes:
        """Work, then answer."""
        return answer(self._service_s)


def start(mark: str) -> str:
    """Start an instance with both forms of the four replicas, and return its address. No file *mark* exists yet."""
    import serve_bridge as serve

    client: Any = serve.start(http_options={"location": "NoServer"})
    config = serve.BackendConfig(max_concurrent_queries=IN_FLIGHT)
    free = {"num_cpus": 0}
    together = config.merged({"num_replicas": REPLICAS})
    serve.create_backend("uneven", UnevenWork, mark, config=together, ray_actor_options=free)
    serve.create_endpoint("uneven", backend="uneven")
    for number in range(REPLICAS):
        service_s = FAST_S if number else SLOW_S
        serve.create_backend(f"one-{number}", Work, service_s, config=config, ray_actor_options=free)
        serve.create_endpoint(f"one-{number}", backend=f"one-{number}")
    return str(client.address)


@dataclass(slots=True)
class _Replica:
    """One of the four replicas, for the policies in the caller."""

    send: Send
    service_s: float
    in_flight: int = 0


class Chooser(Contender):
    """The caller in a stage, a process without Ray."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._ours: Any = None
        self._replicas: list[_Replica] = []

    def start(self, directory: Path) -> None:
        """Connect, and get a handle of each endpoint."""
        import serve_bridge as serve

        serve.connect(os.environ["SERVE_BRIDGE_ADDRESS"])
        self._ours = serve.get_handle("uneven").options(timeout_s=LATE_S)
        for number in range(REPLICAS):
            handle: Any = serve.get_handle(f"one-{number}").options(timeout_s=LATE_S)
            self._replicas.append(_Replica(partial(handle.acall, 1), FAST_S if number else SLOW_S))

    def load(self, choice: str, rate: float, seconds: float) -> dict[str, Any]:
        """Send *rate* requests a second for *seconds*, at random times, and wait for all answers."""
        return asdict(self._runner.run(open_loop(self._sender(choice), rate, seconds)))

    def _sender(self, choice: str) -> Send:
        if choice == OURS:
            return partial(self._ours.acall, 1)
        turns = itertools.cycle(self._replicas)
        choices: Mapping[str, Callable[[], _Replica]] = {
            TURNS: lambda: next(turns),
            FEWEST: lambda: min(self._replicas, key=lambda each: (each.in_flight, random.random())),
            SOONEST: lambda: min(self._replicas, key=lambda each: (each.in_flight + 1) * each.service_s),
        }
        choose = choices[choice]

        async def send() -> object:
            replica = choose()
            replica.in_flight += 1
            try:
                return await replica.send()
            finally:
                replica.in_flight -= 1

        return send

    def stop(self) -> None:
        """Close the event loop."""
        self._runner.close()


async def open_loop(send: Send, rate: float, seconds: float) -> Timing:
    """Send requests at random but repeatable times, *rate* a second on average. A latency begins at the due time."""
    draw = random.Random(SEED)
    latencies: list[float] = []
    errors = 0
    began = perf_counter()

    async def one(due: float) -> None:
        nonlocal errors
        try:
            await send()
        except Exception:  # a full queue or a deadline: because of the choice, the caller has no answer
            errors += 1
        else:
            latencies.append(perf_counter() - due)

    async with asyncio.TaskGroup() as tasks:
        due = began
        while (due := due + draw.expovariate(rate)) < began + seconds:
            await asyncio.sleep(due - perf_counter())
            tasks.create_task(one(due))
    return timing(latencies, seconds, errors=errors)


def measure(trial: Trial) -> None:
    """Measure the row once."""
    choices = trial.ordered((OURS, TURNS, FEWEST, SOONEST))
    wanted = [(point, choice) for point in LOADS for choice in choices if trial.wants(point, choice)]
    if not wanted:
        return
    with trial.attempt(wanted[0][0], wanted[0][1]), tempfile.TemporaryDirectory(prefix="bench-") as directory:
        address = trial.instances.arrange(start, mark=f"{directory}/slow")
        chooser = Stage(_CALLER, {"SERVE_BRIDGE_ADDRESS": address})
        try:
            for point, choice in wanted:
                with trial.attempt(point, choice):
                    _measure_choice(trial, chooser, point, choice)
        finally:
            chooser.stop()


def _measure_choice(trial: Trial, chooser: Stage, point: str, choice: str) -> None:
    rate = LOADS[point] * CAPACITY

    def load(seconds: float) -> Timing:
        return Timing(**chooser.ask("load", limit_s=seconds + 2 * LATE_S, choice=choice, rate=rate, seconds=seconds))

    trial.load(point, lambda: trial.instances.serving_pids() | chooser.serving_pids(), load, choice)
