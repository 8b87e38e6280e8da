"""A change that this process makes holds for its later calls, on any loop and thread, and waits for no loop of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.controller import committed_state as record
from serve_bridge.instance.known_instance import KnownInstance
from tests.behaviour.support import backends
from tests.support.serving import Serving


@pytest.fixture(autouse=True)
def endless_patience(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No change waits out its time for a router that is stopped: it would be an hour where the controller is here."""
    monkeypatch.setattr(record, "ACKNOWLEDGE_S", 3600.0)


@pytest.fixture(scope="module")
def old(module_serving: Serving) -> str:
    """A backend."""
    return module_serving.backend(backends.version_1)


@pytest.fixture(scope="module")
def new(module_serving: Serving) -> str:
    """Another backend."""
    return module_serving.backend(backends.version_2)


@pytest.fixture
def run() -> Iterator[Callable[..., object]]:
    """Runs a coroutine on a loop that stands still between two runs."""
    with asyncio.Runner() as runner:
        yield runner.run


def test_changes_on_a_running_loop_hold_for_its_next_call(
    client: serve.Client, serving: Serving, old: str, new: str
) -> None:
    """The loop has stood still for each change, and has read no routing table meanwhile."""
    warm = serving.endpoint(old).handle
    name, other = serving.name(), serving.name()

    async def main() -> None:
        assert await warm.acall() == "v1"
        handle = client.get_handle(name, missing_ok=True)
        for _ in range(10):
            client.create_endpoint(name, backend=old)
            assert await handle.acall() == "v1"
            client.set_traffic(name, {new: 1.0})
            assert await handle.acall() == "v2"
            client.delete_endpoint(name)
            with pytest.raises(serve.EndpointNotFound):
                await handle.acall()
        client.create_backend(other, backends.version_1)
        client.create_endpoint(name, backend=other)
        assert await handle.acall() == "v1"
        client.update_backend(other, backends.version_2)
        assert [item async for item in handle.astream()] == ["v2"]
        client.delete_endpoint(name)
        client.delete_backend(other)
        with pytest.raises(serve.EndpointNotFound):
            client.get_handle(name)

    asyncio.run(main())


def test_a_loop_that_stood_still_in_a_thread_has_a_change_of_another_thread(
    client: serve.Client, serving: Serving, old: str, new: str
) -> None:
    """Each thread has a loop of its own, which does not run while the change is made."""
    served = serving.endpoint(old)
    runners = [asyncio.Runner() for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:

        def answers() -> list[object]:
            return list(threads.map(lambda runner: runner.run(served.handle.acall()), runners))

        try:
            assert answers() == ["v1"] * 3
            for backend, answer in [(new, "v2"), (old, "v1")] * 5:
                client.set_traffic(served.name, {backend: 1.0})
                assert answers() == [answer] * 3
        finally:
            list(threads.map(asyncio.Runner.close, runners))


def test_a_blocking_call_sees_the_change_before_it(client: serve.Client, serving: Serving, old: str, new: str) -> None:
    """It is sent by this thread, past the loop that reads routing tables."""
    served = serving.endpoint(old)
    for backend, answer in [(new, "v2"), (old, "v1")] * 10:
        client.set_traffic(served.name, {backend: 1.0})
        assert served.handle.call() == answer


def test_a_client_of_its_own_sees_what_another_client_of_the_process_has_changed(
    client: serve.Client, serving: Serving, old: str, new: str, run: Callable[..., object]
) -> None:
    """They share what the process knows of the instance."""
    served = serving.endpoint(old)
    other = serve.Client(InstanceLink(link_of(client).instance))
    try:
        handle = other.get_handle(served.name)
        assert run(handle.acall()) == "v1"
        client.set_traffic(served.name, {new: 1.0})
        assert run(handle.acall()) == "v2"
    finally:
        other.close()


def test_a_call_waits_for_the_newest_table_until_its_deadline(
    client: serve.Client, serving: Serving, old: str, run: Callable[..., object]
) -> None:
    """It is not sent by an older one, and says that it was not."""
    handle = serving.endpoint(old).handle
    assert run(handle.acall()) == "v1"
    known: KnownInstance = link_of(client)._here().known
    newest = known.version
    known.learn(newest + 10_000)
    try:
        with pytest.raises(serve.DeadlineExceeded) as caught:
            run(handle.options(timeout_s=0.2).acall())
        assert caught.value.executed == "no"
        with pytest.raises(serve.DeadlineExceeded):
            handle.options(timeout_s=0.2).call()
    finally:
        known.version = newest
    assert run(handle.acall()) == "v1"
