"""More than there is room for, callers that leave, and time that is up."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from pathlib import Path
from urllib.parse import urlparse

import pytest

import serve_bridge as serve
from tests.faults.conftest import REQUEST_TIMEOUT_S, Stage, scaled, summary
from tests.faults.support.backends import Recorder, Waiting
from tests.faults.support.counts import at_scale
from tests.faults.support.oracle import violations
from tests.support.waiting import wait_until, wait_until_equal

pytestmark = [pytest.mark.ray, pytest.mark.faults]

SLOTS = 4


@pytest.fixture
def gate(stage: Stage) -> Path:
    """The file that lets those go who wait at the endpoint "waiting", which has `SLOTS` slots."""
    gate = stage.directory / "gate"
    stage.serve("waiting", Waiting, str(stage.journal), str(gate), config={"max_concurrent_queries": SLOTS})
    return gate


def test_what_is_too_much_is_refused_and_the_rest_served(stage: Stage) -> None:
    """P19: ten times what there is room for; who is refused was not started, and then all is well again."""
    limits = {"max_concurrent_queries": 2, "max_queued_queries": 4}
    stage.serve("m", Recorder, str(stage.journal), "v1", 0.1, config=limits)
    with stage.load("m", rate=200.0) as load:
        load.wait_for_more(at_scale(300, 12_000))
    run = stage.read(load)
    assert violations(run) == {}
    assert {(o.status, o.executed) for o in run.outcomes} == {(200, ""), (503, "no")}, summary(run.outcomes)
    assert stage.client.get_handle("m").call(b"", id="after", payload="")["id"] == "after"


async def wait_for_events(stage: Stage, event: str, count: int) -> None:
    """Wait until backends have noted *count* of *event*."""
    await asyncio.to_thread(wait_until_equal, lambda: len(stage.events(event)), count)


async def check_slots_are_free(stage: Stage, gate: Path) -> None:
    """Assert that as many requests as there are slots begin at once."""
    handle = stage.client.get_handle("waiting").options(timeout_s=20)
    ids = [f"after-{number}" for number in range(SLOTS)]
    calls = [asyncio.create_task(handle.acall(id=id)) for id in ids]
    await asyncio.to_thread(wait_until, lambda: {event.id for event in stage.events("start")}.issuperset(ids))
    await asyncio.to_thread(gate.touch)
    await asyncio.gather(*calls)


def test_cancelled_calls_stop_and_waiting_ones_never_start(stage: Stage, gate: Path) -> None:
    """P20: code that awaits is cancelled with its caller, who waits in line is forgotten, slots come free."""

    async def cancel() -> None:
        handle = stage.client.get_handle("waiting")
        calls = [asyncio.create_task(handle.acall(id=f"c{number}")) for number in range(SLOTS * 3)]
        await wait_for_events(stage, "start", SLOTS)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await wait_for_events(stage, "cancelled", SLOTS)
        await check_slots_are_free(stage, gate)

    asyncio.run(cancel())
    assert len(stage.events("start")) == SLOTS * 2


def test_calls_cancelled_at_any_moment_leave_no_slot_behind(stage: Stage, gate: Path) -> None:
    """P20: before the request has left, while it travels, as it starts."""
    chance = random.Random(20)

    async def cancel() -> None:
        handle = stage.client.get_handle("waiting")
        for number in range(scaled(200)):
            call = asyncio.create_task(handle.acall(id=f"c{number}"))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(chance.choice((0, 0, 0.0005)))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await asyncio.to_thread(wait_until_equal, lambda: balance(stage), 0)
        await check_slots_are_free(stage, gate)

    asyncio.run(cancel())


def balance(stage: Stage) -> int:
    """Return how many requests have begun and are neither over nor cancelled."""
    return len(stage.events("start")) - len(stage.events("cancelled")) - len(stage.events("end"))


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_a_client_that_leaves_frees_its_slot(stage: Stage, gate: Path, reset: bool) -> None:
    """P20: over HTTP, by a full close or by a reset; those in line never start."""
    url = urlparse(stage.client.http_urls[0])
    clients = []
    for number in range(SLOTS * 2):
        client = socket.create_connection((url.hostname, url.port))
        client.sendall(f"GET /waiting?id=h{number} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        clients.append(client)
    wait_until_equal(lambda: len(stage.events("start")), SLOTS)
    for client in reversed(clients):  # first those in line, or they would move up
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until(lambda: balance(stage) == 0, REQUEST_TIMEOUT_S / 2)
    asyncio.run(check_slots_are_free(stage, gate))


def test_time_that_is_up_ends_the_work_and_what_waits_never_starts(stage: Stage, gate: Path) -> None:
    """P21: the caller gets the error with its proof, the code is cancelled, the slots come free."""

    async def overrun() -> list[BaseException | object]:
        handle = stage.client.get_handle("waiting")
        patient = [asyncio.create_task(handle.acall(id=f"p{number}")) for number in range(SLOTS)]
        await wait_for_events(stage, "start", SLOTS)
        hasty = [handle.options(timeout_s=0.2).acall(id=f"q{number}") for number in range(3)]
        found = await asyncio.gather(*hasty, return_exceptions=True)
        for call in patient:
            call.cancel()
        await asyncio.gather(*patient, return_exceptions=True)
        await wait_for_events(stage, "cancelled", SLOTS)
        for time_s in (0.2, 2.0, 20.0):  # a busy machine may not let it begin sooner
            late = await asyncio.gather(handle.options(timeout_s=time_s).acall(id="r"), return_exceptions=True)
            if len(stage.events("start")) > SLOTS:
                break
        found += late
        await asyncio.to_thread(wait_until_equal, lambda: balance(stage), 0)
        await check_slots_are_free(stage, gate)
        return found

    errors = asyncio.run(overrun())
    assert [type(error) for error in errors] == [serve.DeadlineExceeded] * 4
    assert [getattr(error, "executed", None) for error in errors] == ["no", "no", "no", "unknown"]
    assert not [event for event in stage.events("start") if event.id.startswith("q")]
