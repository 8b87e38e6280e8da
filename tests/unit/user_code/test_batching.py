"""Calls gather into batches; what one caller does or gets never touches another."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import time
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any

import cloudpickle
import numpy as np
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.context import request_deadline
from serve_bridge.errors import ConfigError, DeadlineExceeded
from serve_bridge.user_code.batch_decorator import batch
from serve_bridge.user_code.batch_marks import accept_batch, accepts_batch
from serve_bridge.user_code.batch_queue import BatchQueue
from serve_bridge.user_code.batch_results import batch_results

FOREVER = 3600.0


class Recorder:
    """Runs batches by doubling, keeps what it got, and waits at a gate while that is closed."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.cancelled = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: list[Any]) -> Sequence[Any]:
        """Return each item twice over."""
        self.batches.append(items)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return [item * 2 for item in items]


async def outcomes(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return results or exceptions of calls made in one turn of the loop."""
    return await asyncio.gather(*calls, return_exceptions=True)


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times, so that everything ready has run."""
    for _ in range(count):
        await asyncio.sleep(0)


def results_of(returned: Any, calls: int = 2) -> list[Any]:
    """Return what callers get from a batch that returned the value."""

    async def run(items: list[Any]) -> Any:
        return returned

    async def main() -> list[Any]:
        queue = BatchQueue(run, calls, 0.0)
        return await outcomes(*(queue.submit(n) for n in range(calls)))

    return asyncio.run(main())


def test_calls_of_one_turn_run_together() -> None:
    """Without a wait, a batch takes what is there, in order, and each caller gets its own result."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, 10, 0.0)
        assert await outcomes(*(queue.submit(n) for n in range(3))) == [0, 2, 4]
        assert run.batches == [[0, 1, 2]]

    asyncio.run(main())


def test_a_batch_is_never_above_its_limit() -> None:
    """More calls than fit make more batches, one after another."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, 2, 0.0)
        await outcomes(*(queue.submit(n) for n in range(5)))
        assert run.batches == [[0, 1], [2, 3], [4]]

    asyncio.run(main())


def test_a_full_batch_does_not_wait() -> None:
    """The wait ends when the batch is full."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, 2, FOREVER)
        assert await outcomes(queue.submit(1), queue.submit(2)) == [2, 4]

    asyncio.run(main())


def test_a_batch_that_is_not_full_goes_when_its_wait_is_over() -> None:
    """A lone item is answered after the wait."""

    async def main() -> None:
        assert await BatchQueue(Recorder(), 10, 0.01).submit(1) == 2

    asyncio.run(main())


def test_items_wait_for_others_until_then() -> None:
    """Nothing runs while the batch may still fill."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, 3, FOREVER)
        tasks = [asyncio.create_task(queue.submit(n)) for n in (1, 2)]
        await turns()
        assert run.batches == []
        assert len(queue) == 2
        assert await queue.submit(3) == 6
        assert await asyncio.gather(*tasks) == [2, 4]

    asyncio.run(main())


def test_batches_do_not_overlap() -> None:
    """The next batch gathers while one runs, and starts after it."""

    async def main() -> None:
        run = Recorder()
        run.gate.clear()
        queue = BatchQueue(run, 2, 0.0)
        tasks = [asyncio.create_task(queue.submit(n)) for n in range(4)]
        await turns()
        assert run.batches == [[0, 1]]
        run.gate.set()
        await asyncio.gather(*tasks)
        assert run.batches == [[0, 1], [2, 3]]

    asyncio.run(main())


def test_a_full_batch_may_start_ahead() -> None:
    """Code that waits for a thread gets one full batch more; one that is not full gathers on."""

    async def main() -> None:
        run = Recorder()
        run.gate.clear()
        queue = BatchQueue(run, 2, 0.0)
        queue.ahead = 1
        tasks = [asyncio.create_task(queue.submit(n)) for n in range(3)]
        await turns()
        assert run.batches == [[0, 1]]
        tasks += [asyncio.create_task(queue.submit(n)) for n in range(3, 6)]
        await turns()
        assert run.batches == [[0, 1], [2, 3]]
        run.gate.set()
        await asyncio.gather(*tasks)
        assert run.batches == [[0, 1], [2, 3], [4, 5]]

    asyncio.run(main())


def test_batches_overlap_as_far_as_allowed() -> None:
    """Two may run at once, and the second waits for its own items."""

    async def main() -> None:
        run = Recorder()
        run.gate.clear()
        queue = BatchQueue(run, 2, FOREVER, max_concurrent_batches=2)
        tasks = [asyncio.create_task(queue.submit(n)) for n in range(5)]
        await turns()
        assert run.batches == [[0, 1], [2, 3]]
        assert len(queue) == 1
        queue.reconfigure(1, FOREVER)
        run.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_cancelled_item_leaves_before_the_batch_runs() -> None:
    """User code never sees the item of a caller that has left."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, 2, FOREVER)
        first, second = (asyncio.create_task(queue.submit(n)) for n in (1, 2))
        second.cancel()
        await turns()
        assert run.batches == []
        assert await queue.submit(3) == 6
        assert await first == 2
        assert run.batches == [[1, 3]]

    asyncio.run(main())


def test_cancelling_one_caller_of_a_running_batch_does_not_hurt_others() -> None:
    """The batch runs on for whoever is left."""

    async def main() -> None:
        run = Recorder()
        run.gate.clear()
        queue = BatchQueue(run, 2, 0.0)
        first, second = (asyncio.create_task(queue.submit(n)) for n in (1, 2))
        await turns()
        first.cancel()
        await turns()
        run.gate.set()
        assert await second == 4
        assert not run.cancelled

    asyncio.run(main())


def test_a_batch_nobody_waits_for_is_cancelled() -> None:
    """Work for callers that have all left stops, and the queue goes on."""

    async def main() -> None:
        run = Recorder()
        run.gate.clear()
        queue = BatchQueue(run, 2, 0.0)
        tasks = [asyncio.create_task(queue.submit(n)) for n in (1, 2)]
        await turns()
        for task in tasks:
            task.cancel()
        await turns()
        assert run.cancelled
        run.gate.set()
        assert await queue.submit(3) == 6

    asyncio.run(main())


@pytest.mark.parametrize("error", [StopIteration, GeneratorExit])
def test_what_no_coroutine_can_be_sent_is_wrapped(error: type[BaseException]) -> None:
    """A caller that catches it can go on waiting for something else."""

    async def main() -> None:
        async def run(items: list[Any]) -> list[Any]:
            return [error() for _ in items]

        with pytest.raises(RuntimeError, match=error.__name__):
            await BatchQueue(run, 2, 0.0).submit(1)
        await turns()

    asyncio.run(main())


def test_an_item_that_has_expired_is_not_run() -> None:
    """Its caller learns that nothing ran, and the queue goes on."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, 2, 0.0)
        request_deadline.set(time.monotonic() - 1)
        with pytest.raises(DeadlineExceeded) as caught:
            await queue.submit(1)
        assert caught.value.executed == "no"
        request_deadline.set(time.monotonic() + FOREVER)
        assert await queue.submit(2) == 4
        assert run.batches == [[2]]

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(1), KeyboardInterrupt()])
def test_an_exception_fails_every_caller_and_the_queue_goes_on(error: BaseException) -> None:
    """Whatever the batch raises reaches all its callers, and neither the loop nor the queue."""

    async def main() -> None:
        raised = [error]

        async def run(items: list[Any]) -> list[Any]:
            if raised:
                raise raised.pop()
            return items

        queue = BatchQueue(run, 2, 0.0)

        async def caught(item: int) -> BaseException | None:
            try:
                await queue.submit(item)
            except BaseException as seen:
                return seen
            return None

        assert await outcomes(caught(1), caught(2)) == [error, error]
        assert await queue.submit(3) == 3

    asyncio.run(main())


def test_code_that_raises_cancelled_error_cancels_its_callers() -> None:
    """It is passed on as what it is."""

    async def run(items: list[Any]) -> list[Any]:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await BatchQueue(run, 1, 0.0).submit(1)

    asyncio.run(main())


def test_an_item_that_is_an_exception_fails_its_caller_alone() -> None:
    """The others get their results."""
    error = KeyError("x")
    assert results_of([error, 1]) == [error, 1]


def test_an_item_that_is_stop_iteration_fails_its_caller() -> None:
    """A future refuses StopIteration, so its caller gets a RuntimeError."""
    first, second = results_of([StopIteration(), 1])
    assert isinstance(first, RuntimeError)
    assert second == 1


@pytest.mark.parametrize(
    "returned", ["ab", b"ab", bytearray(b"ab"), {1: 1, 2: 2}, {1, 2}, None, 5, np.array(3), np.str_("ab")], ids=repr
)
def test_what_is_no_sequence_of_results_fails_every_caller(returned: Any) -> None:
    """Text, bytes, mappings, sets and scalars are no results, even of the right length."""
    answers = results_of(returned)
    assert [type(error) for error in answers] == [TypeError, TypeError]
    assert "iterable" in str(answers[0])
    assert type(returned).__name__ in str(answers[0])


class _Rows(Sequence[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (1, 2)[index]


@pytest.mark.parametrize(
    "returned",
    [
        pandas.DataFrame({"label": [1, 2], "score": [3, 4]}),
        pandas.Series([1, 2]),
        polars.DataFrame({"label": [1, 2], "score": [3, 4]}),
        polars.Series([1, 2]),
        pyarrow.table({"label": [1, 2], "score": [3, 4]}),
        {"a": 1, "b": 2}.values(),
        map(str, [1, 2]),
        iter([1, 2]),
        range(2),
        _Rows(),
    ],
    ids=lambda returned: f"{type(returned).__module__}.{type(returned).__name__}",
)
def test_tables_and_other_iterables_fail_every_caller(returned: Any) -> None:
    """Iterating a table gives column names, so only types whose iteration is known count; the error names the type."""
    answers = results_of(returned)
    assert [type(error) for error in answers] == [TypeError, TypeError]
    assert type(returned).__qualname__ in str(answers[0])


@pytest.mark.parametrize(
    "returned",
    [[1], [1, 2, 3], (), np.arange(5), (n for n in range(3))],
    ids=["shorter", "longer", "empty", "array", "generator"],
)
def test_another_length_fails_every_caller(returned: Any) -> None:
    """One result for each request, or the batch has failed."""
    answers = results_of(returned)
    assert [type(error) for error in answers] == [ValueError, ValueError]
    assert "batch size" in str(answers[0])


@pytest.mark.parametrize(
    "returned", [[1, 2], (1, 2), np.array([1, 2]), (n for n in (1, 2))], ids=["list", "tuple", "array", "generator"]
)
def test_lists_tuples_arrays_and_generators_are_results(returned: Any) -> None:
    """Each of the four kinds gives one result for each request."""
    assert results_of(returned) == [1, 2]


def test_an_array_gives_the_entries_of_its_first_dimension() -> None:
    """Two rows are two results."""
    assert [row.tolist() for row in results_of(np.array([[1, 2, 3], [4, 5, 6]]))] == [[1, 2, 3], [4, 5, 6]]


def test_an_endless_iterator_is_refused() -> None:
    """Results are counted no further than needed."""

    def endless() -> Any:
        while True:
            yield 1

    with pytest.raises(ValueError, match="more than 2"):
        batch_results(endless(), 2)


def test_smaller_limits_apply_to_items_that_wait() -> None:
    """A changed limit starts what it makes due."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, 10, FOREVER)
        tasks = [asyncio.create_task(queue.submit(n)) for n in range(3)]
        await turns()
        queue.reconfigure(2, 0.0)
        await asyncio.gather(*tasks)
        assert run.batches == [[0, 1], [2]]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("size", "wait"),
    [(0, 0.0), (True, 0.0), (1.0, 0.0), (1, -1.0), (1, float("nan")), (1, float("inf")), (1, "1")],
)
def test_bad_limits_are_config_errors(size: Any, wait: Any) -> None:
    """Limits are checked where they are given."""
    with pytest.raises(ConfigError):
        BatchQueue(Recorder(), size, wait)


def test_a_batch_sees_the_context_of_its_first_item() -> None:
    """Context variables are those of the call that waited longest."""
    variable = contextvars.ContextVar("variable", default="none")

    async def run(items: list[Any]) -> list[Any]:
        return [variable.get() for _ in items]

    async def main() -> None:
        queue = BatchQueue(run, 2, 0.0)

        async def call(name: str) -> Any:
            variable.set(name)
            return await queue.submit(name)

        assert await outcomes(call("a"), call("b"), call("c")) == ["a", "a", "c"]

    asyncio.run(main())


@given(
    limit=st.integers(1, 4),
    plan=st.lists(st.tuples(st.sampled_from(["submit", "cancel", "turn", "open", "close"]), st.integers(0, 20))),
)
def test_every_call_ends_once_whatever_happens(limit: int, plan: list[tuple[str, int]]) -> None:
    """Each caller gets its own result or cancellation; no batch is above the limit, no item runs twice."""

    async def main() -> None:
        run = Recorder()
        queue = BatchQueue(run, limit, 0.0)
        tasks: list[asyncio.Task[Any]] = []
        for step, number in plan:
            if step == "submit":
                tasks.append(asyncio.create_task(queue.submit(len(tasks))))
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif step == "turn":
                await turns(number % 3)
            elif step == "open":
                run.gate.set()
            else:
                run.gate.clear()
        run.gate.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(e, asyncio.CancelledError) or e == 2 * n for n, e in enumerate(ended))
        ran = [item for items in run.batches for item in items]
        assert len(ran) == len(set(ran))
        assert all(1 <= len(items) <= limit for items in run.batches)
        assert len(queue) == 0

    asyncio.run(main())


def test_accept_batch_marks_and_returns_its_argument() -> None:
    """Functions, methods and static methods carry the mark where it is looked for."""

    @accept_batch
    def function(requests: list[Any]) -> list[Any]:
        return requests

    class Code:
        @accept_batch
        def method(self, requests: list[Any]) -> list[Any]:
            return requests

        @accept_batch
        @staticmethod
        def static(requests: list[Any]) -> list[Any]:
            return requests

        def plain(self) -> None: ...

    assert function([1]) == [1]
    funcs = (function, Code().method, Code().static, Code().plain)
    assert [accepts_batch(func) for func in funcs] == [True, True, True, False]


@pytest.mark.parametrize("target", [object, 5])
def test_accept_batch_refuses_what_is_no_function(target: Any) -> None:
    """A class is marked at its method."""
    with pytest.raises(TypeError, match="accept_batch"):
        accept_batch(target)


def test_batch_joins_concurrent_calls_of_a_function() -> None:
    """Callers pass one item each, and the function sees a list."""
    seen: list[list[int]] = []

    @batch(max_batch_size=2)
    async def double(items: list[int]) -> list[int]:
        seen.append(items)
        return [item * 2 for item in items]

    async def main() -> None:
        assert await outcomes(double(1), double(items=2), double(3)) == [2, 4, 6]

    asyncio.run(main())
    assert seen == [[1, 2], [3]]


class Adder:
    """A class whose method is batched."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.seen: list[list[int]] = []

    @batch()
    async def add(self, items: list[int]) -> list[int]:
        """Add the instance's amount to each item."""
        self.seen.append(items)
        return [item + self.amount for item in items]


def test_batch_keeps_instances_apart() -> None:
    """Calls of two instances never share a batch."""

    async def main() -> None:
        one, ten = Adder(1), Adder(10)
        assert await outcomes(one.add(1), ten.add(1), one.add(2)) == [2, 11, 3]
        assert (one.seen, ten.seen) == ([[1, 2]], [[1]])

    asyncio.run(main())


def test_batch_works_on_one_loop_after_another() -> None:
    """A loop that is gone takes its queues along."""
    adder = Adder(1)
    assert [asyncio.run(adder.add(n)) for n in range(3)] == [1, 2, 3]


def test_batch_does_not_keep_its_instance_alive() -> None:
    """An instance is free to go once no call waits."""

    async def main() -> None:
        adder = Adder(1)
        await adder.add(1)
        alive = weakref.ref(adder)
        del adder
        await turns()
        gc.collect()
        assert alive() is None

    asyncio.run(main())


class SlottedAdder:
    """Adds, in a class of which no weak reference can be made."""

    __slots__ = ("gate", "seen", "token")

    def __init__(self, token: Token) -> None:
        self.seen: list[list[int]] = []
        self.token = token
        self.gate = asyncio.Event()

    @batch(max_batch_size=2)
    async def add(self, items: list[int]) -> list[int]:
        """Return each item plus one, once the gate is open."""
        self.seen.append(items)
        await self.gate.wait()
        return [item + 1 for item in items]


class Token:
    """Goes with what holds it."""


def test_batch_works_on_a_class_with_slots_and_does_not_keep_its_instance_alive() -> None:
    """Calls share batches while any waits; after the last one, and a cancelled one, the instance is free to go."""

    async def main() -> None:
        token = Token()
        alive = weakref.ref(token)
        adder = SlottedAdder(token)
        del token
        calls = [asyncio.create_task(adder.add(n)) for n in range(4)]
        await turns()
        calls[3].cancel()
        adder.gate.set()
        assert await asyncio.gather(*calls[:3]) == [1, 2, 3]
        assert adder.seen == [[0, 1], [2]]
        del adder, calls
        await turns()
        gc.collect()
        assert alive() is None

    asyncio.run(main())


def test_batched_code_can_be_pickled_after_use() -> None:
    """Code and instances travel to replicas; queues and loops stay behind."""

    @batch(max_batch_size=3)
    async def double(items: list[int]) -> list[int]:
        return [item * 2 for item in items]

    adder = Adder(1)
    assert (asyncio.run(double(1)), asyncio.run(adder.add(1))) == (2, 2)
    copy, adder_copy = cloudpickle.loads(cloudpickle.dumps((double, adder)))
    assert (asyncio.run(copy(2)), asyncio.run(adder_copy.add(2))) == (4, 3)


def test_a_batched_method_stays_a_coroutine_function() -> None:
    """Whoever looks at the code sees an `async def`."""
    assert inspect.iscoroutinefunction(Adder.add)
    assert Adder.add.__name__ == "add"


def test_batch_refuses_what_it_cannot_batch() -> None:
    """A plain function, a missing pair of parentheses and a wrong signature are told apart at once."""

    async def two(self: Any, items: Any, more: Any) -> Any: ...

    def plain(items: Any) -> Any: ...

    with pytest.raises(TypeError, match="async def"):
        batch()(plain)
    with pytest.raises(TypeError, match="parentheses"):
        batch(two)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one list"):
        batch()(two)
    with pytest.raises(ConfigError):
        batch(max_batch_size=0)


def test_a_batched_call_takes_exactly_one_item() -> None:
    """A wrong call is the caller's TypeError."""

    async def main() -> None:
        with pytest.raises(TypeError, match="exactly one item"):
            await Adder(1).add(1, 2)

    asyncio.run(main())
