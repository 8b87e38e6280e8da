"""The pool on which user code runs."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref

import pytest

from serve_bridge.process.daemon_threads import DaemonThreads
from tests.support.waiting import wait_until


def test_calls_run_in_the_order_of_their_submission() -> None:
    """One thread makes a serial backend."""
    pool, done = DaemonThreads(1, "t"), list[int]()
    futures = [pool.submit(done.append, n) for n in range(50)]
    for future in futures:
        future.result(20)
    pool.shutdown()
    assert done == list(range(50))


def test_as_many_run_at_once_as_there_are_threads() -> None:
    """All of them meet at a barrier."""
    pool, barrier = DaemonThreads(3, "t"), threading.Barrier(3)
    futures = [pool.submit(barrier.wait, 20) for _ in range(3)]
    assert sorted(future.result(20) for future in futures) == [0, 1, 2]
    pool.shutdown()


def test_what_a_call_raises_reaches_its_future_and_ends_no_thread() -> None:
    """SystemExit too."""
    pool = DaemonThreads(1, "t")
    with pytest.raises(SystemExit):
        pool.submit(sys.exit, 3).result(20)
    assert pool.submit(int, "7").result(20) == 7
    pool.shutdown()


def test_an_idle_thread_keeps_no_result_alive() -> None:
    """Whoever asked for it decides how long it lives."""
    pool = DaemonThreads(1, "t")
    result = pool.submit(threading.Event).result(20)
    reference = weakref.ref(result)
    del result
    wait_until(lambda: reference() is None)
    pool.shutdown()


def test_a_call_that_is_cancelled_before_its_turn_never_runs() -> None:
    """Its place goes to the next."""
    pool, gate, done = DaemonThreads(1, "t"), threading.Event(), list[str]()
    first, second, third = (pool.submit(gate.wait, 20), pool.submit(done.append, "b"), pool.submit(done.append, "c"))
    assert second.cancel()
    gate.set()
    third.result(20)
    assert first.result(20)
    assert done == ["c"]
    pool.shutdown()


def test_after_the_end_nothing_is_taken_and_threads_end() -> None:
    """What waited was cancelled."""
    pool, begun, gate = DaemonThreads(1, "ending"), threading.Event(), threading.Event()
    running, waiting = pool.submit(lambda: (begun.set(), gate.wait(20))[1]), pool.submit(int)
    assert begun.wait(20)
    pool.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)
    gate.set()
    assert running.result(20)
    for thread in threading.enumerate():
        if thread.name.startswith("ending"):
            thread.join(20)
            assert not thread.is_alive()


def test_a_pin_keeps_its_calls_on_the_thread_of_the_first() -> None:
    """Other calls go to the other threads meanwhile, and each thread takes the oldest call that it may."""
    pool, barrier = DaemonThreads(3, "t"), threading.Barrier(3)
    for future in [pool.submit(barrier.wait, 20) for _ in range(3)]:
        future.result(20)
    pins = [pool.pin() for _ in range(5)]
    threads = [{pin.submit(threading.get_ident).result(20) for _ in range(20)} for pin in pins]
    assert [len(each) for each in threads] == [1] * 5
    for pin in pins:
        pin.release()
    pool.shutdown()


def test_a_pin_can_be_made_for_a_thread() -> None:
    """It is that of an earlier call."""
    pool, barrier = DaemonThreads(2, "t"), threading.Barrier(2)
    for future in [pool.submit(barrier.wait, 20) for _ in range(2)]:
        future.result(20)
    thread = pool.submit(threading.get_ident).result(20)
    pin = pool.pin(thread)
    assert {pin.submit(threading.get_ident).result(20) for _ in range(20)} == {thread}
    pin.release()
    pool.shutdown()


def test_a_pin_works_after_the_end_until_it_is_released() -> None:
    """Then its thread ends as well."""
    pool = DaemonThreads(1, "pinned")
    pin = pool.pin()
    thread = pin.submit(threading.current_thread).result(20)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)
    assert pin.submit(threading.current_thread).result(20) is thread
    pin.release()
    thread.join(20)
    assert not thread.is_alive()


def test_a_pin_is_refused_once_all_is_cancelled() -> None:
    """What waited for its thread is cancelled."""
    pool, begun, gate = DaemonThreads(1, "t"), threading.Event(), threading.Event()
    pin = pool.pin()
    pin.submit(int).result(20)
    running = pin.submit(lambda: (begun.set(), gate.wait(20)))
    waiting = pin.submit(int)
    assert begun.wait(20)
    pool.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pin.submit(int)
    gate.set()
    running.result(20)


def test_a_call_that_never_returns_does_not_keep_the_process() -> None:
    """The interpreter exits."""
    program = (
        "import threading; from serve_bridge.process.daemon_threads import DaemonThreads\n"
        "begun = threading.Event()\n"
        "DaemonThreads(1, 't').submit(lambda: (begun.set(), threading.Event().wait()))\n"
        "begun.wait()"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
