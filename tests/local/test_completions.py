"""How a submitting process learns how many of its calls are done, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serve_bridge import completions
from serve_bridge.completions import Completions, follow
from serve_bridge.messages import ReplicaAddress
from serve_bridge.wire import calls
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.connection import ReplicaStream
from serve_bridge.wire.frames import Frame
from serve_bridge.wire.sockets import Listener

KEY = Key(b"k" * 32)
SUBMITTER = "s1"


class Replica:
    """Reports completions to whoever asks."""

    def __init__(self, directory: Path) -> None:
        self.completions = Completions()
        self.followers = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.address = ReplicaAddress("", "")
        self._directory = directory

    async def listen(self) -> None:
        """Be there, for the first time or again."""
        self.listener = Listener(self, KEY, "g", "r1")
        self.address = await self.listener.listen(self._directory / "s")

    def load(self) -> int:
        """Return a load that can be recognised."""
        return 5

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Take a follower."""
        head = calls.decode_call(frame.payload)
        assert head.call_method == completions.OPERATION
        self.followers += 1
        report = self.completions.report(stream, head.request_id, self.load)
        self.tasks.add(asyncio.get_running_loop().create_task(report))


class Follower:
    """What a submitting process was told."""

    def __init__(self, replica: Replica, submitter: str = SUBMITTER) -> None:
        self.told: list[tuple[int, int]] = []
        self.wanted = True
        self._news = asyncio.Event()
        self.task = asyncio.create_task(
            follow(replica.address, KEY, "g", submitter, self._tell, wanted=lambda: self.wanted)
        )

    def _tell(self, count: int, load: int) -> None:
        self.told.append((count, load))
        self._news.set()

    async def until(self, count: int) -> None:
        """Wait until it was told *count*."""
        while not self.told or self.told[-1][0] != count:
            self._news.clear()
            await self._news.wait()


def staged(directory: Path, main: Callable[[Replica], Awaitable[None]]) -> None:
    """Run *main* with a replica that listens, and end what it has begun."""

    async def run() -> None:
        replica = Replica(directory)
        await replica.listen()
        try:
            async with asyncio.timeout(20):
                await main(replica)
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            replica.listener.close()
            for _ in range(5):  # turns of the loop, in which the sockets close
                await asyncio.sleep(0)

    asyncio.run(run())


def test_the_count_and_the_load_are_told(tmp_path: Path) -> None:
    """Whenever the count has grown."""

    async def main(replica: Replica) -> None:
        follower = Follower(replica)
        replica.completions.note(SUBMITTER)
        await follower.until(1)
        replica.completions.note(SUBMITTER)
        await follower.until(2)
        assert follower.told[-1] == (2, 5)

    staged(tmp_path, main)


def test_calls_that_end_together_are_told_of_together(tmp_path: Path) -> None:
    """One message, not a thousand."""

    async def main(replica: Replica) -> None:
        follower = Follower(replica)
        await follower.until(0)
        for _ in range(1000):
            replica.completions.note(SUBMITTER)
        await follower.until(1000)
        assert [count for count, _ in follower.told] == [0, 1000]

    staged(tmp_path, main)


def test_calls_that_ended_before_anybody_asked_are_told(tmp_path: Path) -> None:
    """A call may be faster than the connection that tells of it."""

    async def main(replica: Replica) -> None:
        for _ in range(3):
            replica.completions.note(SUBMITTER)
        follower = Follower(replica)
        await follower.until(3)
        assert follower.told == [(3, 5)]

    staged(tmp_path, main)


def test_each_submitter_is_told_of_its_own_calls(tmp_path: Path) -> None:
    """And of no others."""

    async def main(replica: Replica) -> None:
        first, second = Follower(replica), Follower(replica, "s2")
        replica.completions.note(SUBMITTER)
        replica.completions.note("s2")
        replica.completions.note("s2")
        await first.until(1)
        await second.until(2)

    staged(tmp_path, main)


def test_a_broken_connection_loses_no_count(tmp_path: Path) -> None:
    """The follower comes back and is told all that was done meanwhile."""

    async def main(replica: Replica) -> None:
        follower = Follower(replica)
        replica.completions.note(SUBMITTER)
        await follower.until(1)
        replica.listener.close()
        replica.completions.note(SUBMITTER)
        await replica.listen()
        replica.completions.note(SUBMITTER)
        await follower.until(3)
        assert replica.followers == 2

    staged(tmp_path, main)


def test_a_follower_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    """Once its replica has gone."""

    async def main(replica: Replica) -> None:
        follower = Follower(replica)
        await follower.until(0)
        follower.wanted = False
        replica.listener.close()
        await follower.task

    staged(tmp_path, main)


def test_the_counts_of_a_process_that_left_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not at once: it may only have lost its connection."""
    monkeypatch.setattr(completions, "FORGET_S", 0.0)

    async def main(replica: Replica) -> None:
        replica.completions.note(SUBMITTER)
        follower = Follower(replica)
        await follower.until(1)
        follower.task.cancel()
        await asyncio.wait([follower.task])
        replica.completions.note(SUBMITTER)
        await asyncio.wait(replica.tasks)
        again = Follower(replica)
        await again.until(0)

    staged(tmp_path, main)
