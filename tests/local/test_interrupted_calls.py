"""Exceptions that arrive in the middle of a call, as the time limits of task queues do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import serve_bridge as serve
from tests.programs import run_program

PROGRAM = """
    import signal, sys, threading, time
    import serve_bridge as serve

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
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert client.get_handle("e").call(number) == number
        client.close()
    threads = lambda: [t for t in threading.enumerate() if t.name == "serve_bridge-client"]
    until = time.monotonic() + 20
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    print(interrupted, len(threads()))
"""
CALLS = 150


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance whose backend returns what it gets, one request at a time."""

    async def same(request: Any) -> Any:
        return request.data

    client = serve.start(runtime="local", name="interrupted", http_options={"location": "NoServer"})
    client.create_backend("b", same, config={"max_concurrent_queries": 1})
    client.create_endpoint("e", backend="b")
    yield client
    client.shutdown()


def test_an_interrupted_first_call_leaves_no_thread_and_no_place_taken(client: serve.Client) -> None:
    """Wherever it is interrupted; the next call of the process works."""
    interrupted, threads = map(int, run_program(PROGRAM, client.address, str(CALLS)).split())
    assert interrupted > 0
    assert threads == 0
