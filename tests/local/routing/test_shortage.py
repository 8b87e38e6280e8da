"""A caller without free file descriptors: its replicas stay in use, and its calls work again with the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import serve_bridge as serve
from tests.support.programs import run_program

CALLER = """
    import asyncio, os, resource, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    import serve_bridge as serve
    from serve_bridge.client.client import link_of

    THREADS = 40
    client = serve.connect(sys.argv[1])
    handle = client.get_handle("e")

    def open_descriptors():
        return len(os.listdir("/proc/self/fd"))

    def fill():
        '''Take every descriptor that is left.'''
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return taken

    def burst():
        '''Call from many threads at once, so that each has a connection of its own; they stay, idle.'''
        together = threading.Barrier(THREADS)

        def call(number):
            together.wait()
            return handle.call(number)

        with ThreadPoolExecutor(THREADS) as threads:
            assert list(threads.map(call, range(THREADS))) == list(range(THREADS))

    before = open_descriptors()
    burst()
    idle = open_descriptors() - before
    assert idle > 10, idle
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 3,) * 2)
"""
NEW_LOOP = """
    loop = asyncio.new_event_loop()  # before: it has descriptors of its own
    taken = fill()
    assert loop.run_until_complete(handle.acall("loop")) == "loop"
    loop.close()
"""
MANY_THREADS = """
    taken = fill()
    burst()
"""
NOTHING_IDLE = """
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(handle.acall("before")) == "before"
    process = link_of(client)._here()
    process.blocking_calls.give_back()
    pools = list(process.channel_at(loop).router._pools.values())
    replicas = [slot for pool in pools for slot in pool.replicas]
    for slot in replicas:
        if slot.peer.connection is not None:
            slot.peer.connection.on_change = None
            slot.peer.connection.close()
            slot.peer.connection = None
    for _ in range(5):  # turns of the loop, in which the sockets close
        loop.run_until_complete(asyncio.sleep(0))
    taken = fill()
    for _ in range(2):
        try:
            loop.run_until_complete(handle.acall("full"))
        except serve.BackendOverloaded as error:
            assert "Too many open files" in str(error), error
        else:
            raise AssertionError("it has found a descriptor")
        assert all(pool.all_usable for pool in pools)
    for descriptor in taken:
        os.close(descriptor)
    assert loop.run_until_complete(handle.acall("after")) == "after"
    loop.close()
"""


async def echo(request: serve.ServeRequest) -> object:
    """Answer after a while, so many calls are in flight at the same time."""
    import asyncio

    await asyncio.sleep(0.05)
    return request.data


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """An instance with two replicas, in another process than the caller."""
    client = serve.start(runtime="local", name="shortage", http_options={"location": "NoServer"})
    client.create_backend("b", echo, config={"num_replicas": 2})
    client.create_endpoint("e", backend="b")
    yield client.address
    client.shutdown()


@pytest.mark.parametrize("situation", [NEW_LOOP, MANY_THREADS], ids=["a new loop", "many threads"])
def test_idle_connections_are_given_back_for_new_ones(situation: str, address: str) -> None:
    """They use all descriptors of the process."""
    assert run_program(f"{CALLER}{situation}\n    print('well')\n", address) == "well\n"


def test_a_call_without_a_descriptor_fails_and_the_replicas_stay(address: str) -> None:
    """The error names the shortage. Calls work again as soon as descriptors are free."""
    assert run_program(f"{CALLER}{NOTHING_IDLE}\n    print('well')\n", address) == "well\n"


FIRST_USE = """
    import os, resource, sys
    import serve_bridge as serve
    from serve_bridge.client.client import link_of
    from serve_bridge.adapters.bridge.reconnecting_client import ReconnectingClient

    link = ReconnectingClient(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(3):  # the file, its probe and the loop need one more each time
        try:
            link_of(link.client()).routing_table()
        except serve.ServeBridgeError as error:
            assert error.http_status == 503, error
        else:
            raise AssertionError("it has found descriptors")
        os.close(taken.pop())
    for descriptor in taken:
        os.close(descriptor)
    assert link.get_handle("e").call("well") == "well"
    print("well")
"""


def test_an_app_whose_first_use_finds_no_descriptor_answers_503_until_there_is_one(address: str) -> None:
    """Neither the file of the instance nor the instance is at fault."""
    assert run_program(FIRST_USE, address) == "well\n"
