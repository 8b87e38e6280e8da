"""A forwarded WebSocket under an ASGI server of the tests, which uses the freedom of the ASGI specification."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.config.options import MESSAGE_BYTES
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.forwarding.websocket import forward_websocket
from serve_bridge.replica import websocket_session
from serve_bridge.wire import websocket_messages as messages
from tests.support.waiting import POLL_S, reached

LOGGER = logging.getLogger("tests")
CONNECT = {"type": "websocket.connect"}
DENIAL = {"websocket.http.response": {}}


class Server:
    """One WebSocket of an ASGI server: its received and its sent messages."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        self.broken = self.refused = False
        self.received.put_nowait(CONNECT)

    async def send(self, message: Any) -> None:
        """Take a message of the application."""
        if self.broken:
            self.refused = True
            raise RuntimeError("this server's word for a client that has left")
        self.sent.append(message)

    async def got(self, kind: str) -> Any:
        """Wait for a message of *kind*."""
        await reached(lambda: any(message["type"] == kind for message in self.sent))
        return next(message for message in self.sent if message["type"] == kind)

    def leave(self, code: int = 1001) -> None:
        """The client leaves."""
        self.received.put_nowait({"type": "websocket.disconnect", "code": code})


class Talk:
    """A backend which serves WebSockets, and remembers how they ended."""

    def __init__(self) -> None:
        self.ended: list[Any] = []
        self.begun = 0

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve the WebSocket as its query says."""
        how = websocket.query_params["how"]
        self.begun += 1
        try:
            if how == "deny":
                await websocket.send_denial_response(StreamingResponse(iter([b"a" * 70_000, b"b"]), 402))
            elif how == "wait":
                await reached(lambda: False)
            else:
                await websocket.accept()
                await getattr(self, how)(websocket)
        except WebSocketDisconnect as gone:
            self.ended.append(gone.code)
            raise
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise

    async def echo(self, websocket: WebSocket) -> None:
        """Send each message back, with the context of the caller."""
        while True:
            await websocket.send_json([await websocket.receive_json(), websocket.state._state])

    async def deaf(self, websocket: WebSocket) -> None:
        """Neither send nor receive, for ever."""
        await reached(lambda: False, 3600)

    async def talk(self, websocket: WebSocket) -> None:
        """Send for ever."""
        while True:
            await websocket.send_text("tick")
            await asyncio.sleep(0)

    async def so_far(self) -> tuple[int, list[Any]]:
        """Return the number of begun WebSockets, and how they ended."""
        return self.begun, self.ended


@pytest.fixture
def client() -> Iterator[serve.Client]:
    """An instance in this process."""
    client = serve.start(runtime="local", name="forwarded", http_options={"port": 0})
    client.create_backend("talk", Talk)
    client.create_endpoint("talk", backend="talk")
    yield client
    client.shutdown()


@asynccontextmanager
async def forwarded(
    client: serve.Client, how: str, *, extensions: Any = DENIAL, **options: Any
) -> AsyncIterator[tuple[Server, asyncio.Task[int | None]]]:
    """Forward one WebSocket in a task, which ends with it."""
    server = Server()
    scope = {
        "type": "websocket",
        "path": "/talk",
        "headers": [(b"host", b"tests")],
        "query_string": b"how=" + how.encode(),
        "extensions": extensions,
    }
    request = ForwardedRequest("talk", (), scope, timeout_s=20, request_ids=iter(["id"]), from_adapter=True, **options)
    channel = await link_of(client).channel()
    work = forward_websocket(
        channel.router, request, scope, server.received.get, server.send, logger=LOGGER, on_failure=print
    )
    task = asyncio.ensure_future(work)
    try:
        yield server, task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def told(client: serve.Client, condition: Callable[[int, list[Any]], bool]) -> None:
    """Wait until *condition* is true of the number of begun WebSockets, and of how they ended."""
    handle = client.get_handle("talk").options(method_name="so_far")
    async with asyncio.timeout(60):
        while not condition(*(await handle.acall())):  # noqa: ASYNC110 - what is waited for happens in a replica
            await asyncio.sleep(POLL_S)


async def ended(client: serve.Client, expected: list[Any]) -> None:
    """Wait until the WebSockets of the backend have ended like this."""
    await told(client, lambda _, ends: ends == expected)


def test_what_the_app_knows_reaches_the_backend(client: serve.Client) -> None:
    """The context of the app is the state of the WebSocket, and the only state."""

    async def run() -> None:
        async with forwarded(client, "echo", context={"user": 7}) as (server, _):
            server.received.put_nowait({"type": "websocket.receive", "bytes": None, "text": '"hello"'})
            assert (await server.got("websocket.send"))["text"] == '["hello",{"user":7}]'

    asyncio.run(run())


@pytest.mark.parametrize("extensions", [DENIAL, {}, None])
def test_a_denial_is_what_the_server_can_send(client: serve.Client, extensions: Any) -> None:
    """The client gets its status and body, or a bare 403 if the server can only close."""

    async def run() -> None:
        async with forwarded(client, "deny", extensions=extensions) as (server, task):
            status = await task
        if extensions:
            assert (status, server.sent[0]["status"]) == (402, 402)
            assert b"".join(message["body"] for message in server.sent[1:]) == b"a" * 70_000 + b"b"
        else:
            assert (status, [message["type"] for message in server.sent]) == (403, ["websocket.close"])

    asyncio.run(run())


def test_a_client_that_leaves_before_the_answer_ends_the_handshake(client: serve.Client) -> None:
    """User code is cancelled before it accepts, as over HTTP."""

    async def run() -> None:
        async with forwarded(client, "wait") as (server, task):
            await told(client, lambda begun, _: begun == 1)
            server.leave()
            assert await task is None
        assert server.sent == []
        await ended(client, ["cancelled"])

    asyncio.run(run())


def test_a_client_that_never_came_is_not_forwarded(client: serve.Client) -> None:
    """The client left before the first message of its handshake."""

    async def run() -> None:
        server = Server()
        server.received.get_nowait()
        server.leave()
        channel = await link_of(client).channel()
        scope = {"type": "websocket", "path": "/talk", "headers": []}
        request = ForwardedRequest("talk", (), scope, timeout_s=20, request_ids=iter(["id"]))
        work = forward_websocket(
            channel.router, request, scope, server.received.get, server.send, logger=LOGGER, on_failure=print
        )
        assert await work is None

    asyncio.run(run())


@pytest.mark.parametrize("how", ["deaf", "talk"])
def test_user_code_that_goes_on_without_its_client_is_stopped(
    client: serve.Client, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next `send` of user code fails. User code which does not send is cancelled after a grace."""
    monkeypatch.setattr(messages, "LEAVE_GRACE_S", 0.01)
    monkeypatch.setattr(websocket_session, "LEAVE_GRACE_S", 0.01)

    async def run() -> None:
        async with forwarded(client, how) as (server, task):
            await server.got("websocket.accept")
            server.leave()
            assert await task == 101
        await ended(client, ["cancelled" if how == "deaf" else 1006])

    asyncio.run(run())


def test_a_server_that_takes_no_more_is_one_whose_client_has_left(client: serve.Client) -> None:
    """Each server raises an error of its own. The close code comes with its `receive`."""

    async def run() -> None:
        async with forwarded(client, "echo") as (server, task):
            await server.got("websocket.accept")
            server.broken = True
            server.received.put_nowait({"type": "websocket.receive", "text": "1"})
            await reached(lambda: server.refused)
            server.leave(4000)
            assert await task == 101
        await ended(client, [4000])

    asyncio.run(run())


def test_a_server_that_stops_ends_the_websocket(client: serve.Client) -> None:
    """The server cancels the task, and user code gets the close."""

    async def run() -> None:
        async with forwarded(client, "echo") as (server, task):
            await server.got("websocket.accept")
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        await ended(client, [1006])

    asyncio.run(run())


def test_a_message_above_the_limit_closes_both_ends(client: serve.Client) -> None:
    """This holds for servers without a limit of their own."""

    async def run() -> None:
        async with forwarded(client, "echo") as (server, task):
            await server.got("websocket.accept")
            server.received.put_nowait({"type": "websocket.receive", "bytes": b"x" * (MESSAGE_BYTES + 1)})
            assert (await server.got("websocket.close"))["code"] == 1009
            assert await task == 101
        await ended(client, [1009])

    asyncio.run(run())


def test_no_code_that_may_not_leave_comes_from_here(client: serve.Client) -> None:
    """If a backend is deleted under an open WebSocket, the close has an allowed code."""

    async def run() -> None:
        async with forwarded(client, "deaf") as (server, task):
            await server.got("websocket.accept")
            await asyncio.to_thread(client.delete_endpoint, "talk")
            await asyncio.to_thread(client.update_backend_config, "talk", {"graceful_shutdown_timeout_s": 0})
            await asyncio.to_thread(client.delete_backend, "talk")
            assert await task == 101
        assert (await server.got("websocket.close"))["code"] == 1001

    asyncio.run(run())
