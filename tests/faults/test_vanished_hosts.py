"""Requests to a host that has gone end soon; those to a process that hangs keep their time; none arrives late."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serve_bridge.errors import DeadlineExceeded, ReplicaDied
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.routing.blocking_calls import BlockingCalls
from serve_bridge.routing.router import Router
from serve_bridge.routing_table import BackendRoute, EndpointRoute, RoutingTable
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from tests.faults.support.hosts import Host, other_host

pytestmark = pytest.mark.faults

KEY = Key(b"k" * 32)
FOREVER_S = 600.0
"""A test in which a request waits for so long fails by its own limit."""
HELD_S = 6.0
CUT_S = 2.0
"""Less than the time after which a silent host counts as gone."""
REPLICA = """
    import asyncio, sys
    from pathlib import Path
    from serve_bridge.wire import peer
    from serve_bridge.wire.keys import Key
    from serve_bridge.wire.listener import Listener

    class Holding:
        def load(self):
            return 0

        def accept(self, stream, frame, role):
            print(frame.payload.decode(), flush=True)
            if frame.payload == b"answered":
                stream.respond(b"there", end=True)

    async def main():
        peer.TCP_SILENCE_S = 8  # the kernel asks every 2 s whether a silent connection still exists
        listener = Listener(Holding(), Key(b"k" * 32), "g", "there")
        address = await listener.listen(Path(sys.argv[1]), sys.argv[2])
        print(address.tcp[1], flush=True)
        before = set()
        while True:
            await asyncio.sleep(0.02)
            now = set(listener.connections)
            for _ in before - now:
                print("closed", flush=True)
            before = now

    asyncio.run(main())
"""


@dataclass
class Request:
    """What routers send."""

    idempotent: bool
    timeout_s: float = FOREVER_S
    limit_s: float = FOREVER_S
    retried: bool = False
    endpoint: str = "e"
    kind: Kind = Kind.CALL
    shard_key: str | None = None
    draw: float = 0.0
    body: Sequence[bytes] | None = None
    name: bytes = b"arrived"

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return a head."""
        return self.name


class Stage:
    """A replica on another host, which answers nothing, one here, which answers, and what sends to them."""

    def __init__(self, host: Host, process: subprocess.Popen[str], directory: Path) -> None:
        self.host = host
        self.process = process
        self.there = SocketAddress("there", "/nowhere.sock", (host.address, int(self.printed())))
        self.thread = LoopThread("test-router")
        self.calls = BlockingCalls(KEY, "g")
        self.listener = Listener(self, KEY, "g", "here")
        self.here, self.router = self.thread.submit(lambda: self._open(directory)).result(20)
        self.version = 0

    async def _open(self, directory: Path) -> tuple[SocketAddress, Router]:
        return await self.listener.listen(directory), Router(KEY, Role.PYTHON)

    def printed(self) -> str:
        """Return the next line that the process on the other host prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def load(self) -> int:
        """Return 0."""
        return 0

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Answer, as the replica that is here."""
        stream.respond(b"here", end=True)

    def publish(self, *replicas: SocketAddress) -> None:
        """Let the router know *replicas*."""
        self.version += 1
        backend = BackendRoute(replicas, 10, 10)
        table = RoutingTable("g", self.version, {"b": backend}, {"e": EndpointRoute(None, (), {"b": 1.0}, {})})

        async def apply() -> None:
            self.router.apply(table)

        self.thread.submit(apply).result(20)

    def send(self, way: str, request: Request) -> bytes:
        """Send *request* through the router, or directly first as a blocking caller does; return the answer's head."""
        answer = self.calls.send(self.router, request) if way == "direct" else None
        if answer is not None:
            return answer.head

        async def route() -> bytes:
            _, frame = await self.router.route(request)
            return bytes(frame.payload)

        return self.thread.submit(route).result(FOREVER_S)

    def close(self) -> None:
        """End everything."""

        async def close() -> None:
            self.router.close()
            self.listener.close()

        self.calls.close()
        self.thread.submit(close).result(20)
        self.thread.stop()
        self.thread.join(20)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Two hosts."""
    with other_host() as host, host.start(REPLICA, str(tmp_path / "there"), host.address) as process:
        try:
            stage = Stage(host, process, tmp_path / "here")
            yield stage
            stage.close()
        finally:
            process.kill()


def in_flight(stage: Stage, way: str, request: Request) -> Any:
    """Send *request* from a thread; return its future, once the other host has it."""
    stage.publish(stage.there)
    caller = LoopThread("test-caller")

    async def send() -> bytes:
        return stage.send(way, request)

    sent = caller.submit(send)
    sent.add_done_callback(lambda _: caller.stop())
    assert stage.printed() == "arrived"
    stage.publish(stage.there, stage.here)
    return sent


@pytest.mark.parametrize("way", ["router", "direct"])
def test_a_request_to_a_host_that_has_gone_fails(stage: Stage, way: str) -> None:
    """It may have run there, so it is not sent again."""
    sent = in_flight(stage, way, Request(idempotent=False))
    stage.host.vanish()
    with pytest.raises(ReplicaDied) as caught:
        sent.result(FOREVER_S)
    assert caught.value.executed == "unknown"


@pytest.mark.parametrize("way", ["router", "direct"])
def test_an_idempotent_request_to_a_host_that_has_gone_is_sent_elsewhere(stage: Stage, way: str) -> None:
    """Once, and the retry budget pays."""
    sent = in_flight(stage, way, Request(idempotent=True))
    stage.host.vanish()
    assert sent.result(FOREVER_S) == b"here"
    assert stage.router.statistics.retried == 1


@pytest.mark.parametrize("way", ["router", "direct"])
def test_a_request_to_a_process_that_was_stopped_keeps_its_time(stage: Stage, way: str) -> None:
    """Its host acknowledges the pings that it does not answer, and it may go on."""
    sent = in_flight(stage, way, Request(idempotent=True, timeout_s=HELD_S))
    stage.process.send_signal(signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        sent.result(FOREVER_S)


@pytest.mark.parametrize(
    ("way", "timeout_s"), [("router", CUT_S), ("router", 0.3), ("direct", CUT_S)], ids=["router", "short", "direct"]
)
def test_a_request_on_a_cut_link_does_not_arrive_after_its_deadline(stage: Stage, way: str, timeout_s: float) -> None:
    """The kernel would send it again and again, and deliver it after the repair. Its connection ends instead."""
    stage.publish(stage.there)
    assert stage.send(way, Request(idempotent=False, name=b"answered")) == b"there"
    assert stage.printed() == "answered"
    stage.host.vanish()
    end = time.monotonic() + CUT_S
    with pytest.raises(DeadlineExceeded) as caught:
        stage.send(way, Request(idempotent=False, timeout_s=timeout_s, name=b"late"))
    assert caught.value.executed == "unknown"
    time.sleep(max(0.0, end - time.monotonic()))
    stage.host.come_back()
    assert stage.printed() == "closed"
