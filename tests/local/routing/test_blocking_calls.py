"""Calls on blocking sockets: when the router takes over, and which time and retries the call has spent by then."""

from __future__ import annotations

import asyncio
import linecache
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from serve_bridge.errors import DeadlineExceeded, ProtocolError, ReplicaDied
from serve_bridge.forwarding.blocking import forward_blocking
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.routing import blocking_calls, replica_set, threadsafe_replica_sets
from serve_bridge.routing.blocking_calls import BlockingCalls, PendingAnswer
from serve_bridge.routing.outgoing_request import OutgoingRequest
from serve_bridge.routing.process_link import ProcessLink
from serve_bridge.routing.retry_budget import RETRY_RESERVE
from serve_bridge.routing.router import Router
from serve_bridge.routing_table import BackendRoute, EndpointRoute, RoutingTable
from serve_bridge.wire import blocking_end, blocking_stream, dialling, open_connections
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.segments import Segment

KEY = Key(b"k" * 32)
TIMEOUT_S = 10.0
INTERRUPTED = (
    blocking_calls,
    threadsafe_replica_sets,
    replica_set,
    blocking_end,
    blocking_stream,
    dialling,
    open_connections,
)
"""Modules whose lines a blocking call runs in the calling thread."""
_Result = TypeVar("_Result")


@dataclass
class Request:
    """A request for the router."""

    idempotent: bool = False
    timeout_s: float = TIMEOUT_S
    limit_s: float = TIMEOUT_S
    retried: bool = False
    endpoint: str = "e"
    kind: Kind = Kind.CALL
    shard_key: str | None = None
    draw: float = 0.0
    body: Sequence[Segment] | AsyncIterator[bytes] | None = None

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return a head."""
        return b"head"


class Stage:
    """A router and one replica on a loop of their own, and blocking calls from the test's thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fates: list[str] = []
        self.asked = 0
        self.cancelled = threading.Event()
        self.calls = BlockingCalls(KEY, "g")
        self.thread = LoopThread("test-router")
        self.router = self.on_loop(lambda: Router(KEY, Role.PYTHON))
        self.listener = Listener(self, KEY, "g", "r1")
        listening = self.thread.submit(lambda: self.listener.listen(directory / "s"))
        self.publish(listening.result(20))

    def on_loop(self, work: Callable[[], _Result]) -> _Result:
        """Run *work* on the loop of the router."""

        async def run() -> _Result:
            return work()

        return self.thread.submit(run).result(20)

    def publish(self, replica: SocketAddress, limit: int = 10) -> None:
        """Let the router know the replica."""
        self.replica = replica
        endpoints = {"e": EndpointRoute(None, (), {"b": 1.0}, {})}
        table = RoutingTable("g", 1, {"b": BackendRoute((replica,), limit, 10)}, endpoints)
        self.on_loop(lambda: self.router.apply(table))

    def load(self) -> int:
        """Return 0."""
        return 0

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Answer, unless the test has planned another fate for this request."""
        self.asked += 1
        match self.fates.pop(0) if self.fates else "answer":
            case "answer":
                stream.respond(b"answer", end=True)
            case "full":
                stream.reject("full")
            case "die":
                stream.connection.close()
            case "hold":
                stream.on_cancel = self.cancelled.set
            case "mumble":
                stream.on_cancel = self.cancelled.set
                stream.respond(b"\xa1\xff", end=False)

    def send(self, request: OutgoingRequest) -> PendingAnswer | None:
        """Send *request* from this thread, as a client does."""
        return self.calls.send(self.router, request)

    def exchange(self, *fates: str, **options: bool | float) -> tuple[Request, tuple[bytes, bytes] | None]:
        """Send one request from this thread; return it and its answer."""
        self.fates = list(fates)
        request = Request(**options)  # type: ignore[arg-type]
        answer = self.send(request)
        return request, None if answer is None else (answer.head, answer.read())

    def route(self, request: Request, *fates: str) -> bytes:
        """Send *request* through the router; return the answer's head."""
        self.fates = list(fates)

        async def run() -> bytes:
            _, frame = await self.router.route(request)
            return frame.payload

        return self.thread.submit(run).result(TIMEOUT_S)

    def close(self) -> None:
        """Close the router and the replica."""

        async def close() -> None:
            self.router.close()
            self.listener.close()
            for _ in range(5):  # turns of the loop, in which the sockets close
                await asyncio.sleep(0)

        self.calls.close()
        self.thread.submit(close).result(20)
        self.thread.stop()
        self.thread.join(20)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A router and a replica."""
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_a_simple_call_is_answered_on_its_own_socket(stage: Stage) -> None:
    """The router does not send it."""
    request, answer = stage.exchange("answer")
    assert answer == (b"answer", b"")
    assert (stage.router.statistics.routed, request.timeout_s) == (0, TIMEOUT_S)


def test_a_rejected_call_goes_to_the_router_with_the_time_that_is_left(stage: Stage) -> None:
    """It provably did not run, so it costs no retry."""
    request, answer = stage.exchange("full")
    assert (answer, request.retried, stage.router.statistics.retried) == (None, False, 0)
    assert request.timeout_s < TIMEOUT_S


def test_a_lost_call_is_not_sent_again(stage: Stage) -> None:
    """It may have run."""
    with pytest.raises(ReplicaDied) as caught:
        stage.exchange("die")
    assert (caught.value.executed, stage.asked) == ("unknown", 1)


def test_a_lost_idempotent_call_goes_to_the_router_as_its_one_retry(stage: Stage) -> None:
    """The router gets the remaining time, and the budget pays for the retry."""
    request, answer = stage.exchange("die", idempotent=True)
    assert (answer, request.retried, stage.router.statistics.retried) == (None, True, 1)
    assert request.timeout_s < TIMEOUT_S
    assert stage.route(request) == b"answer"


def test_a_call_that_was_lost_twice_is_not_sent_a_third_time(stage: Stage) -> None:
    """A call which kills its replica does not kill all replicas."""
    request, _ = stage.exchange("die", idempotent=True)
    with pytest.raises(ReplicaDied):
        stage.route(request, "die")
    assert stage.asked == 2


def test_without_budget_nothing_is_sent_again(stage: Stage) -> None:
    """If many replicas die, the load of retries would kill the rest."""
    for _ in range(int(RETRY_RESERVE)):
        stage.exchange("die", idempotent=True)
    with pytest.raises(ReplicaDied):
        stage.exchange("die", idempotent=True)
    assert stage.router.statistics.retried == RETRY_RESERVE


def test_a_retry_that_comes_too_late_does_not_hide_that_the_first_may_have_run(stage: Stage) -> None:
    """The second attempt did not start, but the first may have run."""
    request, _ = stage.exchange("die", idempotent=True)
    request.timeout_s = 0.05
    with pytest.raises(DeadlineExceeded) as caught:
        stage.route(request, *["full"] * 1000)
    assert caught.value.executed == "unknown"


def test_a_call_past_its_deadline_is_cancelled(stage: Stage) -> None:
    """The router does not get it."""
    stage.exchange("answer")  # the connection takes its time, too
    with pytest.raises(DeadlineExceeded):
        stage.exchange("hold", timeout_s=0.2)
    assert stage.cancelled.wait(20)


def test_an_answer_whose_head_is_malformed_is_given_up(stage: Stage) -> None:
    """The replica stops its work."""
    stage.fates = ["mumble"]
    scope = dict.fromkeys(("method", "scheme", "http_version", "path"), "") | {"query_string": b"", "headers": []}
    request = ForwardedRequest("e", (), scope, timeout_s=3600.0, request_ids=iter(["id"]))
    with pytest.raises(ProtocolError, match="HttpAnswer"):
        forward_blocking(cast(ProcessLink, stage), request, b"", length=0, max_bytes=None)
    assert stage.cancelled.wait(20)


class TimeLimit(Exception):
    """The exception of a task queue at the time limit of a task."""


def raising_at(number: int) -> tuple[Callable[..., Any], list[str]]:
    """Return a trace function that raises at line *number* of a blocking call, and a list of where it has raised."""
    files = {str(module.__file__) for module in INTERRUPTED}
    left = [number]
    raised: list[str] = []

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and not raised and not _is_with(frame):
            left[0] -= 1
            if left[0] < 0:
                raised.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                raise TimeLimit
        return trace

    return trace, raised


def _is_with(frame: Any) -> bool:
    """Return whether *frame* is at a `with`, between whose body and end the interpreter takes no signal."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


# The garbage collector closes a socket whose constructor was interrupted.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_at_any_line_keeps_no_slot(stage: Stage) -> None:
    """The replica has one slot for this process; the next call still finds it free."""
    stage.publish(stage.replica, limit=1)
    number = 0
    while True:
        trace, raised = raising_at(number)
        before = sys.gettrace()
        try:
            sys.settrace(trace)
            stage.exchange()
        except TimeLimit:
            pass
        finally:
            sys.settrace(before)
        if not raised:
            break
        assert stage.exchange()[1] == (b"answer", b""), f"no slot was free after {raised}"
        number += 1
    assert number > 50
