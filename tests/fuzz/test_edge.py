"""Mutated requests to a proxy with backends behind it: no 5xx of ours, nothing a strict client cannot read, no leak.

What user code got is compared with what h11 reads from the same bytes: number, boundaries and bytes of the requests.

Many connections are in flight at once, from one event loop.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any, cast

import psutil
import pytest
import uvloop
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket

import serve_bridge as serve
from serve_bridge.http_server.http_connection import HttpConnection
from tests.faults.report.figures import note
from tests.fuzz.support.framing_oracle import read_by_h11
from tests.fuzz.support.inputs import SCALE, SEED, numbers, repeat
from tests.fuzz.support.mutated_requests import REQUESTS, mutated
from tests.local.http_server.test_requests import STATUSES
from tests.local.http_server.test_server import REFUSED, SERVED
from tests.support.edge_server import Answer, answers, read_all
from tests.support.waiting import wait_until, wait_until_equal

INPUTS = 5_000
AT_ONCE = 128
STAYING = 40
"""One client in so many says nothing more and waits for a deadline of the proxy; the others end their side."""
LATEST_S = 60.0
"""How long a connection may take: the deadlines of the proxy, and then some, since machines are busy."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
INSIDE = (b"Traceback", b'File "', b"serve_bridge", b"/tmp/", b".sock")
BAD_REQUESTS = [data for table in (REFUSED, SERVED, STATUSES) for data, _ in table.values() if len(data) < 4096]
"""The tables of the tests beside this one."""


async def anything(request: Any) -> dict[str, Any] | None:
    """Take all that the request has; a WebSocket is accepted and closed."""
    if isinstance(request, WebSocket):
        await request.accept()
        return None
    body = await request.body()
    got = {"method": request.method, "body": body.decode("latin-1")}
    return {"query": request.query_params.multi_items(), "cookies": request.cookies, "got": got}


async def form(request: Any) -> int:
    """Read a form."""
    async with request.form() as fields:
        return len(fields)


async def stream(request: Any) -> StreamingResponse:
    """Answer in parts."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"part"

    return StreamingResponse(parts())


class Data:
    """A method that takes data, which the engine parses."""

    def take(self, data: Any = None) -> str:
        """Say what came."""
        return type(data).__name__


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A proxy with short deadlines."""
    options = {"port": 0, "allowed_hosts": ["*"], "header_timeout_s": 2, "body_timeout_s": 2, "keep_alive_timeout_s": 1}
    client = serve.start(runtime="local", name="edge-fuzz", http_options=options)
    for code in (anything, form, stream, Data):
        client.create_backend(code.__name__, code)
    routes = {"/form": "form", "/stream": "stream", "/data": "Data", "/int/{n:int}": "anything"}
    for number, (route, backend) in enumerate({**routes, "/{rest:path}": "anything"}.items()):
        client.create_endpoint(f"e{number}", backend=backend, route=route, methods=["GET", "POST", "PUT"])
    host, _, port = client.http_urls[0].removeprefix("http://").rpartition(":")
    yield host, int(port)
    client.shutdown()


def left() -> tuple[int, int, int]:
    """Descriptors, connections and unfinished tasks of this process, in which the proxy is a thread."""
    gc.collect()
    found = gc.get_objects()
    # By `type`: `isinstance` asks an object itself, and some, Django's lazy ones, do work to answer.
    connections = sum(issubclass(type(each), HttpConnection) for each in found)
    tasks = sum(not each.done() for each in found if issubclass(type(each), asyncio.Task))
    return psutil.Process().num_fds(), connections, tasks


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes, end one's own side, and read until the proxy closes."""
    with socket.create_connection(address) as client:
        client.settimeout(20)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


@pytest.fixture
def nothing_left(address: tuple[str, int], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a test does leaves nothing behind in the proxy."""
    caplog.set_level("ERROR")  # a record that is kept keeps the request that it is about
    for request in REQUESTS:  # each opens what the proxy keeps to a replica
        exchange(address, request)
    wait_until_equal(lambda: left()[1], 0)
    before = left()
    yield
    assert [answer.status for answer in answers(exchange(address, REQUESTS[0]))] == [200]
    wait_until(lambda: all(now <= then for now, then in zip(left(), before, strict=True)))


class Sender(asyncio.Protocol):
    """Sends pieces, each in a turn of its own, and keeps what comes back until the proxy closes.

    Attributes:
        received: What came.
        closed: Done when the connection has ended; True if by a reset, which may have cost what was not read yet.
    """

    def __init__(self, pieces: list[bytes], *, stays: bool) -> None:
        self._pieces = iter(pieces)
        self._stays = stays
        self._loop = asyncio.get_running_loop()
        self.received = bytearray()
        self.closed: asyncio.Future[bool] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to send."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        if self._transport.is_closing():
            return
        piece = next(self._pieces, None)
        if piece is not None:
            self._transport.write(piece)
            self._loop.call_soon(self._send)
        elif not self._stays:
            self._transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        """The proxy has closed."""
        if not self.closed.done():
            self.closed.set_result(error is not None)


def pieces_of(random: Random, data: bytes) -> list[bytes]:
    """Return *data*, every second time cut somewhere."""
    cut = random.randint(0, len(data)) if random.random() < 0.5 else 0
    return [piece for piece in (data[:cut], data[cut:]) if piece]


def misread(data: bytes, found: list[Answer]) -> object:
    """Return what user code got that h11 does not read from *data*, None if there is nothing of the kind."""
    asked = read_by_h11(data).requests
    for number, answer in enumerate(found):
        shown = json.loads(answer.body) if answer.body.startswith(b'{"query"') else None
        if number < len(asked):
            request = asked[number]
            wanted = {"method": request.method.decode(), "body": request.body.decode("latin-1")}
            if shown is not None and (shown["got"] != wanted or not request.is_whole):
                return f"user code got {shown['got']} where h11 reads {request}"
        elif shown is not None or number > len(asked):
            return f"there are {len(found)} answers to {len(asked)} requests"
    return None


def complaint(data: bytes, received: bytes, reset: bool) -> object:
    """Return what is wrong with all that came back on a connection that sent *data*; None if nothing is."""
    if any(word in received for word in INSIDE):
        return "it tells of the inside"
    received = received.removesuffix(CONTINUE)  # after which the rest of the body did not come
    received = received.partition(b"HTTP/1.1 101 ")[0]  # what follows are no requests and no answers any more
    try:
        found = answers(received)
    except Exception as error:
        return None if reset else error
    failed = next((a for a in found if not (200 <= a.status < 500 or a.status in (501, 505))), None)
    return failed or misread(data, found)


async def send(address: tuple[str, int], data: bytes, sender: Sender) -> object:
    """Let *sender* send *data*; return what is wrong with what came of it, or None."""
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: sender, *address)
    try:
        async with asyncio.timeout(LATEST_S):
            reset = await sender.closed
    except TimeoutError:
        transport.abort()
        return "the proxy does not close"
    return complaint(data, bytes(sender.received), reset)


async def send_all(address: tuple[str, int], sent: Iterator[int]) -> tuple[int, list[str]]:
    """Send inputs by their numbers, `AT_ONCE` at a time; return how many were answered, and what was wrong."""
    answered, wrong = 0, []

    async def worker() -> None:
        nonlocal answered
        for number in sent:
            data = mutated(SEED, number, BAD_REQUESTS)
            random = Random(number)
            sender = Sender(pieces_of(random, data), stays=not random.randrange(STAYING))
            if (found := await send(address, data, sender)) is not None:
                wrong.append(f"{repeat(number)}\n{data!r}\n{bytes(sender.received)!r}\n{found!r}")
            answered += sender.received.startswith(b"HTTP/1.1 ")
            if len(wrong) >= 5:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
    return answered, wrong


@pytest.mark.timeout(600 * max(1.0, SCALE))
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.Spooled:ResourceWarning")  # Starlette's, of a broken form
@pytest.mark.usefixtures("nothing_left")
def test_no_bytes_break_the_proxy(address: tuple[str, int], caplog: pytest.LogCaptureFixture) -> None:
    """P29: 2xx, 3xx, 4xx, 501, 505 or the end of the connection, before the deadlines of the proxy at the latest."""
    sent = numbers(INPUTS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answered, wrong = runner.run(send_all(address, iter(sent)))
    assert not wrong, "\n\n".join(wrong)
    assert answered > len(sent) // 2
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    note(len(sent), f"{len(sent)} mutated requests, {answered} answered")
