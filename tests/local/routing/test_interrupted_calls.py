"""Exceptions in the middle of a call, such as the time limits of task queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.programs import run_program

PROGRAM = """
    import signal, sys, time
    import psutil
    import serve_bridge as serve

    client = serve.connect(sys.argv[1])
    client.get_handle("e").call(0)  # libuv opens a pipe for the life of the process
    client.close()
    process = psutil.Process()
    while process.num_threads() > 1:
        time.sleep(0.01)
    threads, descriptors = process.num_threads(), process.num_fds()

    class TimeLimit(Exception):
        pass

    def interrupt(*_):
        raise TimeLimit

    signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    for number in range(int(sys.argv[2])):
        client = serve.connect(sys.argv[1])
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00002 * (number + 1))
            client.get_handle("e", missing_ok=True).call(number)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except TimeLimit:
            interrupted += 1
        except (KeyError, RuntimeError) as error:
            # Python's own `Thread.start` may fail on the way out: with a lock that it does not hold, or with a thread
            # that it has removed from its list already.
            assert isinstance(error.__context__, TimeLimit), error
            interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert client.get_handle("e").call(number) == number
        client.close()
    # The system's count: Python's list keeps a thread whose start was interrupted, though it has ended.
    until = time.monotonic() + 5
    while process.num_threads() > threads and time.monotonic() < until:
        time.sleep(0.01)
    print(interrupted, process.num_threads() - threads, process.num_fds() - descriptors)
"""
CALLS = 150
MAX_THREADS_LEFT = 2
"""Upper limit for threads left by CPython: after an interrupted `Thread.start`, a thread can wait for its own lock."""


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance whose backend returns its argument, one request at a time."""

    async def same(request: Any) -> Any:
        return request.data

    client = serve.start(runtime="local", name="interrupted", http_options={"location": "NoServer"})
    client.create_backend("b", same, config={"max_concurrent_queries": 1})
    client.create_endpoint("e", backend="b")
    yield client
    client.shutdown()


def test_an_interrupted_first_call_leaves_nothing(client: serve.Client) -> None:
    """No thread, file descriptor or taken place. The call may be interrupted at any line, and the next call works."""
    interrupted, threads, descriptors = map(int, run_program(PROGRAM, client.address, str(CALLS)).split())
    assert interrupted > 0
    assert threads <= MAX_THREADS_LEFT
    assert descriptors <= 0
