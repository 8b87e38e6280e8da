"""Calls to Ray's control plane: bounded, in order, and never on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from serve_bridge.errors import ControlPlaneLost
from serve_bridge.runtimes.ray import control_plane
from serve_bridge.runtimes.ray.control_plane import ControlPlane

pytestmark = pytest.mark.ray


class Absence(threading.Event):
    """An absence of the control plane, in which calls are late soon. It ends when the event is set."""

    def __init__(self, limits: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._limits = limits
        self._limit(0.1)

    def set(self) -> None:
        """End the absence. Further calls have enough time on a busy machine too."""
        self._limit(60.0)
        super().set()

    def _limit(self, limit_s: float) -> None:
        for name in ("CALL_S", "CALL_WHILE_LATE_S"):
            self._limits.setattr(control_plane, name, limit_s)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Absence]:
    """An absence that ends with the test."""
    absence = Absence(monkeypatch)
    yield absence
    absence.set()


def test_a_late_call_is_given_up_and_the_next_one_works_once_it_is_over(gone: Absence) -> None:
    """The loop runs on, and no thread is used up for good."""

    async def check() -> list[int]:
        plane = ControlPlane()
        for _ in range(2):
            with pytest.raises(ControlPlaneLost, match="does not answer"):
                await plane.write(gone.wait)
        gone.set()
        return [await plane.write(lambda: 5), await plane.call(lambda: 6)]

    assert asyncio.run(check()) == [5, 6]


def test_a_late_write_does_not_overwrite_a_newer_one(gone: Absence) -> None:
    """Writes wait for each other, and a refused write that has not begun is not made."""
    written: list[str] = []

    def write(text: str) -> None:
        if text == "late":
            gone.wait()
        written.append(text)

    async def check() -> None:
        plane = ControlPlane()
        for text in ("late", "refused"):
            with pytest.raises(ControlPlaneLost):
                await plane.write(write, text)
        gone.set()
        await plane.write(write, "newer")

    asyncio.run(check())
    assert written == ["late", "newer"]


def test_what_must_happen_happens_late(gone: Absence) -> None:
    """The end of a process, for example."""
    done = threading.Event()

    async def check() -> None:
        with pytest.raises(ControlPlaneLost):
            await ControlPlane().insist(lambda: gone.wait() and done.set())

    asyncio.run(check())
    gone.set()
    assert done.wait(60)


def test_an_error_of_the_call_is_its_own() -> None:
    """Such as an unknown actor."""

    def fail() -> None:
        raise ValueError("no such actor")

    with pytest.raises(ValueError, match="no such actor"):
        asyncio.run(ControlPlane().call(fail))
