"""Batches: requests that user code receives together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from tests.support.serving import Served, Serving

FULL = {"max_batch_size": 4, "batch_wait_timeout": 10.0}


def call_at_once(served: Served, *data: Any) -> list[Any]:
    """Call with each of *data* at the same time; return the answers or exceptions in order."""

    async def main() -> list[Any]:
        return await asyncio.gather(*(served.handle.acall(item) for item in data), return_exceptions=True)

    return asyncio.run(main())


@serve.accept_batch
def sizes(requests: list[Any]) -> list[int]:
    """Tell each caller how many there were."""
    return [len(requests)] * len(requests)


def test_a_function_gets_a_list_of_requests(serving: Serving) -> None:
    """At most max_batch_size; a full batch waits for nothing."""
    assert call_at_once(serving(sizes, config=FULL), 1, 2, 3, 4) == [4, 4, 4, 4]


def test_each_caller_gets_its_own_answer(serving: Serving) -> None:
    """The sequence is in the order of the requests."""

    @serve.accept_batch
    def double(requests: list[Any]) -> list[int]:
        return [request.data * 2 for request in requests]

    assert call_at_once(serving(double, config=FULL), 1, 2, 3, 4) == [2, 4, 6, 8]


def test_a_batch_that_is_not_full_goes_when_its_time_is_up(serving: Serving) -> None:
    """batch_wait_timeout, from the first item."""
    served = serving(sizes, config={"max_batch_size": 100, "batch_wait_timeout": 0.2})
    assert call_at_once(served, 1, 2) == [2, 2]


def test_without_a_batch_size_there_are_lists_of_one(serving: Serving) -> None:
    """max_batch_size=None."""
    assert call_at_once(serving(sizes), 1, 2, 3) == [1, 1, 1]


def test_an_asynchronous_method_of_a_class_can_be_marked(serving: Serving) -> None:
    """And so can a method other than __call__."""

    class Batched:
        @serve.accept_batch
        async def __call__(self, requests: list[Any]) -> list[str]:
            return [f"call of {len(requests)}" for _ in requests]

        @serve.accept_batch
        async def other(self, requests: list[Any]) -> list[str]:
            return [f"other of {len(requests)}" for _ in requests]

    handle = serving(Batched, config=FULL).handle

    async def main() -> list[Any]:
        other = handle.options(method_name="other")
        return await asyncio.gather(*(h.acall() for h in [handle, other] * 4))

    assert asyncio.run(main()) == ["call of 4", "other of 4"] * 4


def test_http_requests_are_batched(serving: Serving, http: httpx.Client) -> None:
    """Each gets its own answer."""

    @serve.accept_batch
    def answer(requests: list[Any]) -> list[str]:
        return [f"{request.query_params['n']} of {len(requests)}" for request in requests]

    served = serving(answer, config=FULL)
    with ThreadPoolExecutor(4) as threads:
        texts = threads.map(lambda n: http.get(served.route, params={"n": n}).text, range(4))
        assert list(texts) == [f"{n} of 4" for n in range(4)]


@pytest.mark.parametrize("result", [None, 5, "four", b"four", {1: 1}, {1, 2, 3, 4}, [1, 2, 3], [1] * 5], ids=repr)
def test_an_answer_that_is_no_sequence_of_the_same_length(serving: Serving, result: Any) -> None:
    """Is an error to every caller of the batch, never a hang."""

    @serve.accept_batch
    def wrong(requests: list[Any]) -> Any:
        return result

    answers = call_at_once(serving(wrong, config=FULL), 1, 2, 3, 4)
    assert all(isinstance(answer, TypeError | ValueError | serve.ServeBridgeError) for answer in answers)
    assert all("iterable" in str(answer) or "batch size" in str(answer) for answer in answers)


def test_an_item_that_is_an_exception_fails_that_caller_alone(serving: Serving) -> None:
    """The others get their answers."""

    @serve.accept_batch
    def picky(requests: list[Any]) -> list[Any]:
        return [ValueError("odd") if request.data % 2 else request.data for request in requests]

    first, second, third, fourth = call_at_once(serving(picky, config=FULL), 0, 1, 2, 4)
    assert (first, third, fourth) == (0, 2, 4)
    assert isinstance(second, ValueError)


def test_an_exception_raised_fails_every_caller(serving: Serving) -> None:
    """As its own type."""

    @serve.accept_batch
    def broken(requests: list[Any]) -> list[Any]:
        raise LookupError("nothing found")

    answers = call_at_once(serving(broken, config=FULL), 1, 2, 3, 4)
    assert [type(answer) for answer in answers] == [LookupError] * 4


def test_a_batch_size_can_be_changed(client: serve.Client, serving: Serving) -> None:
    """On the running backend."""
    served = serving(sizes, config={"max_batch_size": 100, "batch_wait_timeout": 10.0})
    client.update_backend_config(served.name, {"max_batch_size": 2})
    assert call_at_once(served, 1, 2, 3, 4) == [2, 2, 2, 2]


def test_a_batch_size_without_the_mark_is_refused(client: serve.Client, serving: Serving) -> None:
    """The code would get one request where it expects a list."""
    name = serving.name()
    with pytest.raises(ValueError, match="accept_batch"):
        client.create_backend(name, lambda request: 1, config={"max_batch_size": 2})
    assert name not in client.list_backends()


def test_batch_inside_user_code(serving: Serving) -> None:
    """serve.batch gathers the calls of an `async def`."""

    class Model:
        @serve.batch(max_batch_size=4, batch_wait_timeout_s=10.0)
        async def predict(self, items: list[int]) -> list[tuple[int, int]]:
            return [(item, len(items)) for item in items]

        async def __call__(self, request: Any) -> tuple[int, int]:
            return await self.predict(request.data)

    assert call_at_once(serving(Model), 1, 2, 3, 4) == [(1, 4), (2, 4), (3, 4), (4, 4)]
