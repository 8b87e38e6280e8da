"""WebSockets: from a client through the proxy to user code and back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException, WebSocketException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import serve_bridge as serve
from tests.support.serving import Served, Serving
from tests.support.waiting import reached, wait_until, wait_until_equal

CHUNK = b"x" * 65_536
FLOOD = 4096
"""Chunks that a flood has: 256 MiB, far more than all buffers on the way together."""
BOUND = 512
"""Chunks that may be under way to somebody who does not read."""


def opened(client: serve.Client, route: str, *, open_timeout: float = 30.0, **options: Any) -> ClientConnection:
    """Connect to *route* of the client's proxy."""
    url = client.http_urls[0].replace("http://", "ws://")
    # A client whose own buffers are full never sees the answer to its close.
    return connect(url + route, proxy=None, max_size=None, open_timeout=open_timeout, close_timeout=0.5, **options)


def denied(client: serve.Client, route: str, **options: Any) -> Any:
    """Return the answer that denies a handshake at *route*."""
    with pytest.raises(InvalidStatus) as refused:
        opened(client, route, **options)
    return refused.value.response


def closed(connection: ClientConnection) -> tuple[int, str]:
    """Return the code and reason with which the other side closes."""
    with contextlib.suppress(ConnectionClosedError):
        for _ in connection:
            pass
    return connection.close_code or 0, connection.close_reason or ""


async def echo(websocket: WebSocket) -> None:
    """Send back what comes, text as text and bytes as bytes."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None, headers=[(b"x-own", b"1")])
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if "text" in message:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


@pytest.fixture(scope="module")
def echoing(module_serving: Serving) -> Served:
    """A backend that echoes."""
    return module_serving(echo, path="/{room:int}")


def room(served: Served, number: int = 1) -> str:
    """Return the path of one room."""
    return served.route.replace("{room:int}", str(number))


@pytest.mark.parametrize("message", ["", "grüße", "\u0000", b"", b"\x00\xff", b"x" * 65_535, b"x" * 65_536])
def test_a_message_comes_back_as_it_was(client: serve.Client, echoing: Served, message: str | bytes) -> None:
    """Text and bytes, empty ones too, and those as long as a frame of the data plane."""
    with opened(client, room(echoing)) as connection:
        connection.send(message)
        assert connection.recv(20) == message


def test_messages_keep_order_and_borders(client: serve.Client, echoing: Served) -> None:
    """However fast they come."""
    sent = [f"{number}" * (number % 5) for number in range(300)]
    with opened(client, room(echoing)) as connection:
        for message in sent:
            connection.send(message)
        assert [connection.recv(20) for _ in sent] == sent


def test_a_message_as_long_as_the_limit_passes_both_ways(client: serve.Client, echoing: Served) -> None:
    """16 MiB, unless the HTTP options say otherwise."""
    with opened(client, room(echoing), compression=None) as connection:
        connection.send(b"x" * 2**24)
        assert len(connection.recv(60)) == 2**24


def test_a_longer_message_closes_with_1009(client: serve.Client, echoing: Served) -> None:
    """Nothing of it reaches user code."""
    with opened(client, room(echoing)) as connection:
        connection.send(b"x" * (2**24 + 1))
        assert closed(connection)[0] == 1009


def test_the_limit_can_be_set_and_holds_for_backends_too(start: Callable[..., serve.Client]) -> None:
    """`max_message_bytes` is both what comes in and what goes out."""

    async def doubling(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text * 2)

    client = start(http_options={"port": 0, "max_message_bytes": 1000})
    client.create_backend("doubling", doubling)
    client.create_endpoint("doubling", backend="doubling", route="/doubling")
    with opened(client, "/doubling") as connection:
        connection.send("x" * 500)
        assert len(connection.recv(20)) == 1000
        connection.send("x" * 501)
        assert closed(connection)[0] == 1009


def test_the_handshake_takes_a_subprotocol_and_headers(client: serve.Client, echoing: Served) -> None:
    """What `accept` was given, and the request id."""
    with opened(
        client, room(echoing), subprotocols=["a", "b"], additional_headers={"X-Request-Id": "mine"}
    ) as connection:
        assert connection.subprotocol == "b"
        assert connection.response is not None
        assert (connection.response.headers["x-own"], connection.response.headers["x-request-id"]) == ("1", "mine")


async def describe(websocket: WebSocket) -> None:
    """Send what is known of the handshake."""
    await websocket.accept()
    known = {
        "scheme": websocket.url.scheme,
        "path": websocket.url.path,
        "query": websocket.query_params.getlist("a"),
        "path_params": websocket.path_params,
        "header": websocket.headers["x-given"],
        "control": [name for name in websocket.headers if name.startswith("x-serve-")],
        "cookie": websocket.cookies["c"],
        "state": websocket.state._state,
        "host": websocket.client.host if websocket.client else None,
    }
    await websocket.send_json(known)


def test_user_code_sees_the_handshake(client: serve.Client, serving: Serving) -> None:
    """As of any request: typed path parameters, query, headers without control headers."""
    served = serving(describe, path="/{room:int}")
    headers = {"X-Given": "1", "X-Serve-Shard-Key": "k", "Cookie": "c=d"}
    with opened(client, room(served, 7) + "?a=1&a=2", additional_headers=headers) as connection:
        known = httpx.Response(200, text=str(connection.recv(20))).json()
    assert known == {
        "scheme": "ws",
        "path": room(served, 7),
        "query": ["1", "2"],
        "path_params": {"room": 7},
        "header": "1",
        "control": [],
        "cookie": "d",
        "state": {},
        "host": "127.0.0.1",
    }


class Chat:
    """Serves WebSockets by a method of its own, and HTTP by `__call__`."""

    async def __call__(self, request: Any) -> str:
        """Answer HTTP."""
        return "a WebSocket" if isinstance(request, WebSocket) else "a request"

    async def shout(self, websocket: WebSocket) -> None:
        """Echo in upper case."""
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text.upper())


def test_a_method_can_serve_websockets(client: serve.Client, http: httpx.Client, serving: Serving) -> None:
    """Called by name; it gets the WebSocket whatever its parameter is called."""
    served = serving(Chat)
    with opened(client, served.route, additional_headers={"X-Serve-Call-Method": "shout"}) as connection:
        connection.send("abc")
        assert connection.recv(20) == "ABC"
    assert http.get(served.route).text == "a request"


# Denials


async def refusing(websocket: WebSocket) -> None:
    """Deny the handshake as the query asks for."""
    how = websocket.query_params["how"]
    if how == "close":
        await websocket.close(4000)
    elif how == "response":
        await websocket.send_denial_response(JSONResponse({"pay": 1}, 402, {"X-Why": "price"}))
    elif how == "stream":
        await websocket.send_denial_response(StreamingResponse(iter([b"a" * 70_000, b"b"]), 418))
    elif how == "http":
        raise HTTPException(401, "who are you?")
    elif how == "websocket":
        raise WebSocketException(1008)
    elif how == "raise":
        raise ValueError("a secret")
    elif how == "header":
        await websocket.accept(headers=[(b"x-split", b"a\r\nb: c")])


@pytest.fixture(scope="module")
def refusals(module_serving: Serving) -> Served:
    """A backend that denies."""
    return module_serving(refusing)


@pytest.mark.parametrize(
    ("how", "status"),
    [("return", 403), ("close", 403), ("websocket", 403), ("http", 401), ("raise", 500), ("header", 500)],
)
def test_a_denied_handshake_is_a_problem(client: serve.Client, refusals: Served, how: str, status: int) -> None:
    """With the request id, and nothing of the inside."""
    answer = denied(client, f"{refusals.route}?how={how}", additional_headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine")
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"secret" not in answer.body


def test_user_code_can_deny_with_a_response(client: serve.Client, refusals: Served) -> None:
    """`send_denial_response` takes any."""
    answer = denied(client, f"{refusals.route}?how=response")
    assert (answer.status_code, answer.headers["x-why"], answer.body) == (402, "price", b'{"pay":1}')
    streamed = denied(client, f"{refusals.route}?how=stream")
    assert (streamed.status_code, streamed.body) == (418, b"a" * 70_000 + b"b")


def plain(request: Any) -> str:
    """Answer HTTP only."""
    return "plain"


@serve.accept_batch
async def batched(requests: list[Any]) -> list[str]:
    """Answer HTTP in batches."""
    return ["batched"] * len(requests)


async def yielding(request: Any) -> Any:
    """Answer HTTP piece by piece."""
    yield "piece"


@pytest.mark.parametrize("code", [plain, batched, yielding])
def test_code_that_cannot_serve_websockets_says_so(client: serve.Client, serving: Serving, code: Any) -> None:
    """501: only an `async def` that does not yield can."""
    answer = denied(client, serving(code).route)
    assert answer.status_code == 501
    assert b"does not accept WebSockets" in answer.body


def test_no_route_and_no_method_deny_as_over_http(client: serve.Client, serving: Serving) -> None:
    """404, and 405 with Allow: the handshake is a GET."""
    assert denied(client, "/nothing-is-here").status_code == 404
    assert denied(client, "/-/routes").status_code == 404
    answer = denied(client, serving(echo, methods=["POST"]).route)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_an_unclear_control_header_denies(client: serve.Client, echoing: Served) -> None:
    """As over HTTP."""
    answer = denied(client, room(echoing), additional_headers={"X-Serve-Shard-Key": ""})
    assert answer.status_code == 400


class Door:
    """Accepts once it was told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, websocket: WebSocket) -> None:
        """Wait, if the query says so, then echo."""
        if "wait" in websocket.query_params:
            await self.open.wait()
        await echo(websocket)


def test_the_time_of_a_request_is_that_of_the_handshake(start: Callable[..., serve.Client]) -> None:
    """504 where nobody accepts in time; a WebSocket that is open stays so."""
    client = start(http_options={"port": 0, "request_timeout_s": 0.5})
    client.create_backend("door", Door)
    client.create_endpoint("door", backend="door", route="/door")

    def let_in() -> ClientConnection | None:
        with contextlib.suppress(InvalidStatus):  # a replica that is kept from running does not accept in time
            return opened(client, "/door")
        return None

    with wait_until(let_in) as connection:
        assert denied(client, "/door?wait=1").status_code == 504
        connection.send("still here")
        assert connection.recv(20) == "still here"


def test_a_middleware_of_the_proxy_sees_websockets(start: Callable[..., serve.Client]) -> None:
    """As ASGI middlewares do."""
    client = start(http_options={"port": 0, "middlewares": [Middleware(Stamp)]})
    client.create_backend("echo", echo)
    client.create_endpoint("echo", backend="echo", route="/echo")
    with opened(client, "/echo") as connection:
        assert connection.response is not None
        assert connection.response.headers["x-stamp"] == "websocket"


class Stamp:
    """Adds a header to what is accepted."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Stamp and pass on."""

        async def stamped(message: Any) -> None:
            if message["type"] == "websocket.accept":
                message = {**message, "headers": [*message["headers"], (b"x-stamp", scope["type"].encode())]}
            await send(message)

        await self.app(scope, receive, stamped)


# Ends


class Ending:
    """Ends WebSockets as the query asks for, and remembers how clients ended them."""

    def __init__(self) -> None:
        self.left: list[tuple[int, str]] = []
        self.cleaned = 0

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one."""
        await websocket.accept()
        how = websocket.query_params.get("how")
        if how == "return":
            return
        if how == "raise":
            raise ValueError("a secret")
        if how == "exit":
            raise SystemExit(3)
        if how == "exception":
            raise WebSocketException(1008, "against the policy")
        if how is not None:
            await websocket.close(int(how), "because")
            return
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as gone:
            self.left.append((gone.code, gone.reason))
            raise

    async def produce(self, websocket: WebSocket) -> None:
        """Send until the client has left."""
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("tick")
        except WebSocketDisconnect as gone:
            self.left.append((gone.code, gone.reason))

    def ends(self) -> list[tuple[int, str]]:
        """Return how clients have left."""
        return list(self.left)


@pytest.fixture(scope="module")
def endings(module_serving: Serving) -> Served:
    """A backend that ends."""
    return module_serving(Ending)


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("return", 1000, ""),
        ("1000", 1000, "because"),
        ("4321", 4321, "because"),
        ("1005", 1000, "because"),
        ("1006", 1011, "because"),
        ("1015", 1011, "because"),
        ("exception", 1008, "against the policy"),
        ("raise", 1011, "request mine"),
        ("exit", 1011, "request mine"),
    ],
)
def test_user_code_ends_a_websocket(client: serve.Client, endings: Served, how: str, code: int, reason: str) -> None:
    """With the code that it says, if it may leave; a failure is 1011 and the request id."""
    headers = {"X-Request-Id": "mine"}
    with opened(client, f"{endings.route}?how={how}", additional_headers=headers) as connection:
        assert closed(connection) == (code, reason)


def test_user_code_sees_how_the_client_left(client: serve.Client, serving: Serving) -> None:
    """Code and reason of its close."""
    served = serving(Ending)
    with opened(client, served.route) as connection:
        connection.close(4001, "bye")
    wait_until_equal(lambda: served.handle.options(method_name="ends").call(), [(4001, "bye")])


def test_user_code_sees_a_client_that_was_cut_off(client: serve.Client, serving: Serving) -> None:
    """A code that no client can send."""
    served = serving(Ending)
    with opened(client, served.route) as connection:
        connection.socket.shutdown(socket.SHUT_RDWR)
    wait_until_equal(lambda: served.handle.options(method_name="ends").call(), [(1006, "")])


def test_user_code_that_only_sends_sees_that_the_client_left(client: serve.Client, serving: Serving) -> None:
    """Its next message fails."""
    served = serving(Ending)
    with opened(client, served.route, additional_headers={"X-Serve-Call-Method": "produce"}) as connection:
        connection.recv(20)
    ends = wait_until(lambda: served.handle.options(method_name="ends").call())
    assert ends[0][0] in (1005, 1006)


def test_an_open_websocket_takes_a_slot(client: serve.Client, serving: Serving) -> None:
    """One of `max_concurrent_queries`; who finds none is denied with 503."""
    served = serving(echo, config={"max_concurrent_queries": 1, "max_queued_queries": 0})
    with opened(client, served.route):
        answer = denied(client, served.route)
        assert (answer.status_code, answer.headers["x-serve-executed"]) == (503, "no")

    def again() -> bool:
        with contextlib.suppress(InvalidStatus), opened(client, served.route):
            return True
        return False

    assert wait_until(again)


def test_a_client_that_leaves_while_it_waits_takes_no_slot(client: serve.Client, serving: Serving) -> None:
    """Its handshake is withdrawn."""
    served = serving(Recording, config={"max_concurrent_queries": 1})
    with opened(client, f"{served.route}?name=first") as first:
        with pytest.raises(TimeoutError):
            opened(client, f"{served.route}?name=second", open_timeout=0.2)
        first.send("done")
    with opened(client, f"{served.route}?name=third"):
        pass
    assert "second" not in served.handle.options(method_name="names").call()


class Recording:
    """Remembers who has come."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, websocket: WebSocket) -> None:
        """Note the name, then wait for the end."""
        self.seen.append(websocket.query_params["name"])
        await websocket.accept()
        async for _ in websocket.iter_text():
            pass

    async def names(self) -> list[str]:
        """Return who has come."""
        return self.seen


def test_shadows_get_no_websockets(client: serve.Client, http: httpx.Client, serving: Serving) -> None:
    """A conversation exists once; the request that follows it is copied."""
    served = serving(echo_or_answer)
    shadow = serving(Visits)
    client.shadow_traffic(served.name, shadow.name, 1.0)
    with opened(client, served.route) as connection:
        connection.send("x")
        connection.recv(20)
    http.get(served.route)
    assert wait_until(lambda: shadow.handle.options(method_name="kinds").call()) == ["http"]


async def echo_or_answer(request: Any) -> Any:
    """Serve either kind."""
    return await echo(request) if isinstance(request, WebSocket) else "ok"


class Visits:
    """Remembers what has come."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, request: Any) -> None:
        """Note its kind."""
        self.seen.append(request.scope["type"])

    async def kinds(self) -> list[str]:
        """Return what has come."""
        return self.seen


# Back-pressure


class Flood:
    """Sends or reads a flood, and says how far it is."""

    def __init__(self) -> None:
        self.chunks = 0
        self.reads = asyncio.Event()

    async def __call__(self, websocket: WebSocket) -> None:
        """Send chunk after chunk."""
        await websocket.accept()
        while self.chunks < FLOOD:
            await websocket.send_bytes(CHUNK)
            self.chunks += 1

    async def swallow(self, websocket: WebSocket) -> None:
        """Read chunk after chunk, once it may."""
        await websocket.accept()
        await self.reads.wait()
        async for _ in websocket.iter_bytes():
            self.chunks += 1

    async def far(self) -> int:
        """Return how many chunks were sent or read."""
        return self.chunks

    async def read(self) -> None:
        """Let `swallow` begin."""
        self.reads.set()


def standing_still(progress: Callable[[], int]) -> int:
    """Wait until *progress* does not change any more; return it."""
    seen = [progress()]

    def still() -> bool:
        seen.append(progress())
        return len(seen) > 100 and seen[-1] > 0 and len(set(seen[-100:])) == 1

    wait_until(still, 60)
    return seen[-1]


def test_who_does_not_read_stops_the_backend(client: serve.Client, serving: Serving) -> None:
    """What is under way is bounded; it goes on when the client reads."""
    served = serving(Flood)
    far = served.handle.options(method_name="far")
    with opened(client, served.route, compression=None) as connection:
        stopped = standing_still(far.call)
        assert stopped < BOUND
        for _ in range(stopped + 1):
            connection.recv(20)
        wait_until(lambda: far.call() > stopped)


def test_a_backend_that_does_not_read_stops_the_client(client: serve.Client, serving: Serving) -> None:
    """As the other way round."""
    served = serving(Flood)
    sent: list[int] = []
    headers = {"X-Serve-Call-Method": "swallow"}
    with opened(client, served.route, compression=None, additional_headers=headers) as connection:

        def flood() -> None:
            for number in range(2 * BOUND):
                connection.send(CHUNK)
                sent.append(number)

        sending = threading.Thread(target=flood)
        sending.start()
        assert standing_still(lambda: len(sent)) < BOUND
        served.handle.options(method_name="read").call()
        sending.join(60)
        wait_until_equal(served.handle.options(method_name="far").call, 2 * BOUND)


class Impatient:
    """Gives up a long message when it is told to."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, websocket: WebSocket) -> None:
        """Send long messages until the client says something, then another."""
        await websocket.accept()
        sending = asyncio.ensure_future(self.send(websocket))
        said = None
        while said is None:
            with contextlib.suppress(TimeoutError):
                said = await asyncio.wait_for(websocket.receive_text(), 0.01)
        sending.cancel()
        await asyncio.wait([sending])
        await websocket.send_text(said)

    async def send(self, websocket: WebSocket) -> None:
        """Send messages of many frames."""
        while True:
            await websocket.send_bytes(CHUNK * 30)
            self.sent += 1

    async def far(self) -> int:
        """Return how many were sent."""
        return self.sent


def test_a_message_that_was_given_up_spoils_no_other(client: serve.Client, serving: Serving) -> None:
    """Neither one that was being sent, nor one that was waited for."""
    served = serving(Impatient)
    with opened(client, served.route, compression=None) as connection:
        standing_still(served.handle.options(method_name="far").call)
        connection.send("stop")
        received = list(connection)
    assert received.pop() == "stop"
    assert {len(message) for message in received} == {len(CHUNK) * 30}


class Several:
    """Sends from several tasks at once."""

    async def __call__(self, websocket: WebSocket) -> None:
        """Send long and short messages."""
        await websocket.accept()
        messages = [bytes([number]) * (number * 30_000 + 1) for number in range(20)]
        await asyncio.gather(*map(websocket.send_bytes, messages))


def test_several_tasks_may_send(client: serve.Client, serving: Serving) -> None:
    """Each message is whole."""
    with opened(client, serving(Several).route) as connection:
        received = [connection.recv(20) for _ in range(20)]
    assert sorted(map(len, received)) == [number * 30_000 + 1 for number in range(20)]
    assert all(len(set(message)) == 1 for message in received)


# Change and crash


async def version_2(websocket: WebSocket) -> None:
    """Say which one this is."""
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text("v2")


def test_an_open_websocket_outlives_an_update(client: serve.Client, serving: Serving) -> None:
    """Its replica drains: who is there stays, who comes gets the new version."""
    served = serving(echo, config={"graceful_shutdown_timeout_s": 60})
    with opened(client, served.route) as connection:
        connection.send("x")
        connection.recv(20)
        updating = threading.Thread(target=client.update_backend, args=(served.name, version_2))
        updating.start()

        def answer() -> str:
            with opened(client, served.route) as other:
                other.send("v1")
                return str(other.recv(20))

        wait_until_equal(answer, "v2")
        connection.send("still here")
        assert connection.recv(20) == "still here"
    updating.join(60)
    assert not updating.is_alive()


def test_a_replica_that_retires_closes_with_1001(client: serve.Client, serving: Serving) -> None:
    """After the time that it has for what it had accepted."""
    served = serving(echo, config={"graceful_shutdown_timeout_s": 0.2})
    with opened(client, served.route) as connection:
        client.update_backend(served.name, version_2)
        assert closed(connection)[0] == 1001


def test_the_end_of_the_instance_closes_with_1012(start: Callable[..., serve.Client]) -> None:
    """Or 1001, if the backend is sooner: clients may come again, elsewhere."""
    client = start()
    client.create_backend("echo", echo)
    client.create_endpoint("echo", backend="echo", route="/echo")
    with opened(client, "/echo") as connection:
        client.shutdown()
        assert closed(connection)[0] in (1001, 1012)


async def tell_process(websocket: WebSocket) -> None:
    """Send the process's id, then wait."""
    await websocket.accept()
    await websocket.send_json(os.getpid())
    await reached(lambda: False)


@pytest.fixture
def on_ray(runtime: str) -> Iterator[None]:
    """Skips what needs processes of their own."""
    if runtime != "ray":
        pytest.skip("the local runtime has no processes to kill")
    return


@pytest.mark.usefixtures("on_ray")
def test_a_replica_that_dies_closes_with_1011(client: serve.Client, serving: Serving) -> None:
    """Its clients see a close frame, not a cut."""
    served = serving(tell_process)
    with opened(client, served.route) as connection:
        os.kill(int(connection.recv(20)), signal.SIGKILL)
        assert closed(connection)[0] == 1011
