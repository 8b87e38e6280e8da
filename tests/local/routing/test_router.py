"""The router against small replicas on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serve_bridge.errors import (
    BackendOverloaded,
    DeadlineExceeded,
    EndpointNotFound,
    NotConnected,
    ProtocolError,
    ReplicaDied,
    ServeBridgeError,
)
from serve_bridge.forwarding.answer import forward
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.routing import waiting_line
from serve_bridge.routing.router import Router
from serve_bridge.routing_table import BackendRoute, EndpointRoute, RoutingTable
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.segments import Segment

KEY = Key(b"k" * 32)


class FakeReplica:
    """A replica which answers with its name or as the test says, and counts its requests."""

    behaviour: Callable[[ReplicaStream], object]

    def __init__(self, name: str, behaviour: str = "answer", load: int = 0) -> None:
        self.name = name
        self.reported = load
        self.behaviour = getattr(self, behaviour)
        self.streams: list[ReplicaStream] = []
        self.arrived = asyncio.Event()
        self.listener = Listener(self, KEY, "g", name)

    def load(self) -> int:
        """Return the load which the test has set."""
        return self.reported

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Accept a request."""
        self.streams.append(stream)
        self.arrived.set()
        self.behaviour(stream)

    def answer(self, stream: ReplicaStream) -> None:
        """Answer with the replica's name."""
        stream.respond(self.name.encode(), end=True)

    def mumble(self, stream: ReplicaStream) -> None:
        """Answer with a malformed head."""
        stream.respond(b"\xa1\xff", end=False)

    def die(self, stream: ReplicaStream) -> None:
        """Close every connection."""
        self.listener.close()

    def hold(self, stream: ReplicaStream) -> None:
        """Answer later, or never."""

    def full(self, stream: ReplicaStream) -> None:
        """Reject the request as full."""
        stream.reject("full")

    def deny_method(self, stream: ReplicaStream) -> None:
        """Reject the method."""
        stream.reject("not exposed", "m")

    def leave_once(self, stream: ReplicaStream) -> None:
        """Reject as draining once, then serve."""
        self.behaviour = self.answer
        stream.reject("draining")

    def deny_once(self, stream: ReplicaStream) -> None:
        """Reject as foreign once, then serve."""
        self.behaviour = self.answer
        stream.reject("foreign")


@dataclass
class Request:
    """A request for the router."""

    timeout_s: float = 10.0
    limit_s: float = 10.0
    idempotent: bool = False
    retried: bool = False
    draw: float = field(default_factory=random.random)
    endpoint: str = "e"
    kind: Kind = Kind.CALL
    shard_key: str | None = None
    body: Sequence[Segment] | AsyncIterator[bytes] | None = None

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return a head."""
        return b"head"


@dataclass
class Stage:
    """A router and its replicas."""

    directory: Path
    limit: int = 10
    max_queued: int = 10
    shadows: dict[str, float] = field(default_factory=dict)
    version: int = 0
    running: dict[str, tuple[FakeReplica, SocketAddress]] = field(default_factory=dict)
    router: Router = field(init=False)

    def __post_init__(self) -> None:
        self.router = Router(KEY, Role.PYTHON)

    async def start(self, replica: FakeReplica) -> FakeReplica:
        """Start a replica."""
        address = await replica.listener.listen(self.directory / "s")
        self.running[replica.name] = replica, address
        return replica

    def publish(self, *names: str, shadow: Sequence[str] = ()) -> None:
        """List replicas of the backend, and of its shadow."""
        self.version += 1
        backends = {
            backend: BackendRoute(tuple(self.running[n][1] for n in listed), self.limit, self.max_queued)
            for backend, listed in (("b", names), ("s", shadow))
        }
        self.router.apply(
            RoutingTable("g", self.version, backends, {"e": EndpointRoute(None, (), {"b": 1.0}, self.shadows)})
        )

    async def ask(self, **options: object) -> str:
        """Send one request; return the answer's head."""
        _, frame = await self.router.route(Request(**options))  # type: ignore[arg-type]
        return frame.payload.decode()

    def close(self) -> None:
        """Close the router and the replicas."""
        self.router.close()
        for replica, _ in self.running.values():
            replica.listener.close()


def staged(tmp_path: Path, main: Callable[[Stage], Awaitable[None]], **options: object) -> None:
    """Run a test on a stage."""

    async def run() -> None:
        stage = Stage(tmp_path, **options)  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(20):
                await main(stage)
        finally:
            stage.close()
            await asyncio.sleep(0)

    asyncio.run(run())


async def turns(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds."""
    while not condition():  # noqa: ASYNC110 - what is awaited has no event
        await asyncio.sleep(0)


def test_of_two_replicas_the_less_loaded_gets_the_request(tmp_path: Path) -> None:
    """The router compares the loads which came with their answers."""

    async def main(stage: Stage) -> None:
        await stage.start(FakeReplica("r1", load=1000))
        await stage.start(FakeReplica("r2"))
        stage.publish("r1", "r2")
        await asyncio.gather(*(stage.ask() for _ in range(4)))
        assert {await stage.ask() for _ in range(20)} == {"r2"}

    staged(tmp_path, main)


def test_a_full_replica_is_skipped(tmp_path: Path) -> None:
    """The caller does not notice the rejection."""

    async def main(stage: Stage) -> None:
        await stage.start(FakeReplica("r1", "full"))
        await stage.start(FakeReplica("r2"))
        stage.publish("r1", "r2")
        assert {await stage.ask() for _ in range(10)} == {"r2"}

    staged(tmp_path, main)


def test_waiting_requests_are_served_in_order(tmp_path: Path) -> None:
    """Three requests wait for one slot."""

    async def main(stage: Stage) -> None:
        replica = await stage.start(FakeReplica("r1", "hold"))
        stage.publish("r1")
        served: list[int] = []

        async def ask(number: int) -> None:
            await stage.ask()
            served.append(number)

        asking = [asyncio.create_task(ask(number)) for number in range(3)]
        for count in range(1, 4):
            await turns(lambda count=count: len(replica.streams) == count)
            replica.answer(replica.streams[-1])
        await asyncio.gather(*asking)
        assert served == [0, 1, 2]

    staged(tmp_path, main, limit=1)


def test_a_rejected_request_waits_until_its_replica_has_room(tmp_path: Path) -> None:
    """Requests of other routers fill the replica. The router tries again by itself."""

    async def main(stage: Stage) -> None:
        replica = FakeReplica("r1")
        replica.behaviour = lambda s: replica.full(s) if len(replica.streams) < 4 else replica.answer(s)
        await stage.start(replica)
        stage.publish("r1")
        assert (await stage.ask(), stage.router.statistics.rejected) == ("r1", 3)

    staged(tmp_path, main)


def test_an_answer_whose_head_is_malformed_is_a_protocol_error(tmp_path: Path) -> None:
    """Adapters and the proxy answer the ProtocolError like other errors. The replica stops its work."""

    async def main(stage: Stage) -> None:
        replica = await stage.start(FakeReplica("r1", "mumble"))
        stage.publish("r1")
        scope = dict.fromkeys(("method", "scheme", "http_version", "path"), "") | {"query_string": b"", "headers": []}
        request = ForwardedRequest("e", (), scope, timeout_s=3600.0, request_ids=iter(["id"]))
        with pytest.raises(ProtocolError, match="HttpAnswer"):
            await forward(stage.router, request)
        await replica.streams[0].gone()

    staged(tmp_path, main)


def test_a_queue_that_is_full_refuses_at_once(tmp_path: Path) -> None:
    """No replica starts the request. An expired request leaves its place in the queue."""

    async def main(stage: Stage) -> None:
        replica = await stage.start(FakeReplica("r1", "hold"))
        stage.publish("r1")
        held = asyncio.create_task(stage.ask())
        await replica.arrived.wait()
        with pytest.raises(DeadlineExceeded):
            await stage.ask(timeout_s=0.01)
        waiting = asyncio.create_task(stage.ask())
        await asyncio.sleep(0)
        with pytest.raises(BackendOverloaded, match="max_queued_queries"):
            await stage.ask()
        waiting.cancel()
        replica.answer(replica.streams[0])
        assert await held == "r1"

    staged(tmp_path, main, limit=1, max_queued=1)


def test_without_a_replica_nothing_waits(tmp_path: Path) -> None:
    """No slot can become free."""

    async def main(stage: Stage) -> None:
        stage.publish()
        with pytest.raises(BackendOverloaded, match="no ready replica"):
            await stage.ask()

    staged(tmp_path, main)


def test_replicas_that_all_went_away_are_not_waited_for_till_the_deadline(tmp_path: Path) -> None:
    """A request waits only as long as a new routing table may take."""

    async def main(stage: Stage) -> None:
        replica = await stage.start(FakeReplica("r1"))
        stage.publish("r1")
        replica.listener.close()
        with pytest.raises(BackendOverloaded, match="no ready replica"):
            await stage.ask(timeout_s=15.0)

    staged(tmp_path, main)


def test_while_the_controller_is_away_requests_without_a_replica_wait_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next table may list the replicas that were started in place of the known ones."""
    monkeypatch.setattr(waiting_line, "NO_REPLICA_WAIT_S", 0.0)

    async def main(stage: Stage) -> None:
        looks: list[float] = []

        def expects_table_s() -> float:
            looks.append(0.001)
            return looks[-1]

        stage.router.expects_table_s = expects_table_s
        old, new = await stage.start(FakeReplica("r1")), await stage.start(FakeReplica("r2"))
        stage.publish("r1")
        old.listener.close()
        asked = asyncio.create_task(stage.ask(timeout_s=15.0))
        await turns(lambda: len(looks) > 2)
        stage.publish(new.name)
        assert await asked == "r2"

    staged(tmp_path, main)


def test_a_deadline_that_passes_before_sending_proves_that_nothing_ran(tmp_path: Path) -> None:
    """The request was still in the queue."""

    async def main(stage: Stage) -> None:
        replica = await stage.start(FakeReplica("r1", "hold"))
        stage.publish("r1")
        held = asyncio.create_task(stage.ask())
        await replica.arrived.wait()
        with pytest.raises(DeadlineExceeded) as caught:
            await stage.ask(timeout_s=0.02)
        assert (caught.value.executed, len(replica.streams)) == ("no", 1)
        held.cancel()

    staged(tmp_path, main, limit=1)


def test_a_deadline_that_passes_after_sending_leaves_it_unknown_and_cancels(tmp_path: Path) -> None:
    """The slot is free once the replica has confirmed the cancel."""

    async def main(stage: Stage) -> None:
        replica = FakeReplica("r1")
        cancelled = asyncio.Event()

        def hold(stream: ReplicaStream) -> None:
            def cancel() -> None:
                stream.abort()
                cancelled.set()

            stream.on_cancel = cancel

        await stage.start(replica)
        stage.publish("r1")
        await stage.ask()  # the connection takes its time, too
        replica.behaviour = hold
        with pytest.raises(DeadlineExceeded) as caught:
            await stage.ask(timeout_s=0.2)
        assert caught.value.executed == "unknown"
        await cancelled.wait()
        replica.behaviour = replica.answer
        assert await stage.ask() == "r1"

    staged(tmp_path, main, limit=1)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_lost_request_is_sent_again_only_if_that_is_safe(tmp_path: Path, idempotent: bool) -> None:
    """It is sent once more, to another replica."""

    async def main(stage: Stage) -> None:
        dying = await stage.start(FakeReplica("r1", "die"))
        other = await stage.start(FakeReplica("r2", "answer" if idempotent else "die"))
        stage.publish("r1")
        asking = asyncio.create_task(stage.ask(idempotent=idempotent))
        await dying.arrived.wait()
        stage.publish("r1", "r2")
        if idempotent:
            assert (await asking, stage.router.statistics.retried) == ("r2", 1)
        else:
            with pytest.raises(ReplicaDied) as caught:
                await asking
            assert (caught.value.executed, other.streams) == ("unknown", [])

    staged(tmp_path, main)


def test_a_second_attempt_that_finds_no_replica_proves_nothing_of_the_first(tmp_path: Path) -> None:
    """The first attempt may have run, even if the second one only waited in the queue."""

    async def main(stage: Stage) -> None:
        dying = await stage.start(FakeReplica("r1", "die"))
        stage.publish("r1")
        asking = asyncio.create_task(stage.ask(idempotent=True))
        await dying.arrived.wait()
        stage.publish()
        with pytest.raises(ReplicaDied) as caught:
            await asking
        assert caught.value.executed == "unknown"

    staged(tmp_path, main)


@pytest.mark.parametrize("retried", [False, True])
@pytest.mark.parametrize("case", ["no table", "no endpoint", "no replica", "not exposed"])
def test_a_refusal_proves_nothing_of_a_request_that_was_sent_before(tmp_path: Path, retried: bool, case: str) -> None:
    """A thread's own connection was lost after it had sent the request, and the router is only the second to try."""

    async def main(stage: Stage) -> None:
        await stage.start(FakeReplica("r1", "deny_method"))
        if case != "no table":
            stage.publish(*(["r1"] if case == "not exposed" else []))
        with pytest.raises(ServeBridgeError) as caught:
            await stage.ask(retried=retried, endpoint="missing" if case == "no endpoint" else "e", timeout_s=0.2)
        assert getattr(caught.value, "executed", None) == ("unknown" if retried else "no")

    staged(tmp_path, main, max_queued=0)


def test_a_request_is_lost_at_most_twice(tmp_path: Path) -> None:
    """A request which kills its replica does not kill all replicas."""

    async def main(stage: Stage) -> None:
        for name in ("r1", "r2", "r3"):
            await stage.start(FakeReplica(name, "die"))
        stage.publish("r1", "r2", "r3")
        with pytest.raises(ReplicaDied):
            await stage.ask(idempotent=True)
        assert sum(len(replica.streams) for replica, _ in stage.running.values()) == 2

    staged(tmp_path, main)


@pytest.mark.parametrize("fate", ["full", "die", "hold", "nobody"])
def test_a_shadow_never_affects_the_primary(tmp_path: Path, fate: str) -> None:
    """The shadow may fail in any way."""

    async def main(stage: Stage) -> None:
        await stage.start(FakeReplica("r1"))
        await stage.start(FakeReplica("s1", "answer" if fate == "nobody" else fate))
        stage.publish("r1", shadow=["s1"] if fate != "nobody" else [])
        assert [await stage.ask() for _ in range(5)] == ["r1"] * 5

    staged(tmp_path, main, shadows={"s": 1.0})


def test_shadows_get_copies(tmp_path: Path) -> None:
    """A copy is counted when it was answered."""

    async def main(stage: Stage) -> None:
        await stage.start(FakeReplica("r1"))
        shadow = await stage.start(FakeReplica("s1"))
        stage.publish("r1", shadow=["s1"])
        for _ in range(5):
            await stage.ask()
        await turns(lambda: stage.router.statistics.shadows_sent == 5)
        assert len(shadow.streams) == 5

    staged(tmp_path, main, shadows={"s": 1.0})


def test_a_replica_that_leaves_the_table_finishes_what_it_has(tmp_path: Path) -> None:
    """It gets no further requests, and its connection closes after the last answer."""

    async def main(stage: Stage) -> None:
        leaving = await stage.start(FakeReplica("r1", "hold"))
        await stage.start(FakeReplica("r2"))
        stage.publish("r1")
        asking = asyncio.create_task(stage.ask())
        await leaving.arrived.wait()
        stage.publish("r2")
        assert {await stage.ask() for _ in range(5)} == {"r2"}
        leaving.answer(leaving.streams[0])
        assert await asking == "r1"
        await turns(lambda: not leaving.listener.connections)

    staged(tmp_path, main)


@pytest.mark.parametrize("behaviour", ["leave_once", "deny_once"])
def test_a_replica_that_refused_for_a_wrong_reason_is_asked_again(tmp_path: Path, behaviour: str) -> None:
    """The router avoids the replica for a while only. Until then, a request waits or goes to another replica."""

    async def main(stage: Stage) -> None:
        await stage.start(FakeReplica("r1", behaviour))
        stage.publish("r1")
        answer = ""
        while not answer:
            with contextlib.suppress(BackendOverloaded):
                answer = await stage.ask()
        assert answer == "r1"

    staged(tmp_path, main)


def test_a_draining_replica_loses_nothing(tmp_path: Path) -> None:
    """Requests on their way to it go to another replica."""

    async def main(stage: Stage) -> None:
        draining = await stage.start(FakeReplica("r1"))
        await stage.start(FakeReplica("r2"))
        stage.publish("r1", "r2")
        await asyncio.gather(*(stage.ask() for _ in range(20)))
        draining.listener.stop_accepting()
        draining.listener.go_away()
        assert set(await asyncio.gather(*(stage.ask() for _ in range(20)))) == {"r2"}

    staged(tmp_path, main)


def test_a_replica_that_comes_back_is_dialled_again(tmp_path: Path) -> None:
    """The router dials for as long as the replica is listed."""

    async def main(stage: Stage) -> None:
        replica = await stage.start(FakeReplica("r1"))
        stage.publish("r1")
        await stage.ask()
        replica.listener.close()
        await stage.start(FakeReplica("r1"))
        assert await stage.ask(idempotent=True) == "r1"

    staged(tmp_path, main)


def test_a_body_that_is_streamed_goes_whole_to_the_replica_that_accepts_it(tmp_path: Path) -> None:
    """A rejection before has lost no byte of it."""

    async def main(stage: Stage) -> None:
        replica = FakeReplica("r1")
        received: list[bytes] = []
        tasks: list[asyncio.Task[None]] = []

        async def read(stream: ReplicaStream) -> None:
            stream.accept_body()
            received.extend([chunk async for chunk in stream.chunks()])
            replica.answer(stream)

        def behave(stream: ReplicaStream) -> None:
            if len(replica.streams) < 3:
                stream.reject("full")
            else:
                tasks.append(asyncio.create_task(read(stream)))

        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            yield b"second"

        replica.behaviour = behave
        await stage.start(replica)
        stage.publish("r1")
        assert (await stage.ask(body=body()), received) == ("r1", [b"first", b"second"])

    staged(tmp_path, main)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_closed_router_fails_what_is_in_flight(tmp_path: Path, deleted: bool) -> None:
    """No request waits for ever, not even for a deleted backend."""

    async def main(stage: Stage) -> None:
        replica = await stage.start(FakeReplica("r1", "hold"))
        stage.publish("r1")
        asking = asyncio.create_task(stage.ask())
        await replica.arrived.wait()
        if deleted:
            stage.router.apply(RoutingTable("g", stage.version + 1, {}, {}))
        stage.router.close()
        with pytest.raises(ReplicaDied):
            await asking

    staged(tmp_path, main)


def test_an_unknown_endpoint_is_told_from_a_missing_table(tmp_path: Path) -> None:
    """Only the unknown endpoint is a mistake of the caller."""

    async def main(stage: Stage) -> None:
        with pytest.raises(NotConnected):
            await stage.ask()
        stage.publish()
        with pytest.raises(EndpointNotFound):
            await stage.ask(endpoint="other")

    staged(tmp_path, main)
