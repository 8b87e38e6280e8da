"""WebSockets over real sockets, through the proxy and through adapters under uvicorn: what a client sees."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

import serve_bridge as serve
from tests.adapters.support.websocket_fronts import FRONTS, NAME, websocket_url
from tests.support.waiting import wait_until_equal

MIB = 2**20


class Talking:
    """Does what the query asks for, else echoes, and remembers how clients have left."""

    def __init__(self) -> None:
        self.left: list[Any] = []

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one."""
        query = websocket.query_params
        if "deny" in query:
            await websocket.send_denial_response(JSONResponse({"pay": 1}, 402, {"X-Why": "price"}))
            return
        offered = websocket.scope["subprotocols"]
        await websocket.accept(subprotocol=offered[-1] if offered else None, headers=[(b"x-own", b"1")])
        if "close" in query:
            await websocket.close(int(query["close"]), "because")
            return
        if "send" in query:
            await websocket.send_bytes(bytes(int(query["send"])))
        try:
            while (message := await websocket.receive())["type"] == "websocket.receive":
                text = message.get("text")
                await (websocket.send_bytes(message["bytes"]) if text is None else websocket.send_text(text))
            self.left.append([message["code"], message["reason"]])
        except WebSocketDisconnect as gone:
            self.left.append([gone.code, gone.reason])

    def ends(self) -> list[Any]:
        """Return how clients have left."""
        return self.left


@pytest.fixture(scope="module", autouse=True)
def handle(engine: serve.Client) -> Iterator[serve.Handle]:
    """The endpoint behind all fronts."""
    engine.create_backend(NAME, Talking, config={"graceful_shutdown_timeout_s": 0.2})
    engine.create_endpoint(NAME, backend=NAME, route=f"/{NAME}")
    yield engine.get_handle(NAME)
    engine.delete_endpoint(NAME)
    engine.delete_backend(NAME, force=True)


@pytest.fixture(scope="module", params=["proxy", "starlette", "django"])
def url(request: pytest.FixtureRequest, engine: serve.Client, handle: serve.Handle) -> Iterator[str]:
    """Each front in turn."""
    with FRONTS[request.param](engine) as url:
        yield url


def opened(url: str, query: str = "", **options: Any) -> ClientConnection:
    """Connect."""
    return connect(websocket_url(url, query), proxy=None, max_size=None, **options)


def closed(connection: ClientConnection) -> tuple[int | None, str | None]:
    """Return the code and reason with which the other side closes."""
    with pytest.raises(ConnectionClosed):
        connection.recv(20)
    return connection.close_code, connection.close_reason


def test_the_handshake_agrees_on_subprotocol_and_headers(url: str) -> None:
    """User code chooses among those that the client offers."""
    with opened(url, subprotocols=[Subprotocol("a"), Subprotocol("b")]) as connection:
        assert connection.subprotocol == "b"
        assert connection.response is not None
        assert connection.response.headers["x-own"] == "1"


def test_a_denial_arrives_whole(url: str) -> None:
    """Status, headers and body."""
    with pytest.raises(InvalidStatus) as denied:
        opened(url, "?deny=1")
    answer = denied.value.response
    assert (answer.status_code, answer.headers["x-why"], answer.body) == (402, "price", b'{"pay":1}')


@pytest.mark.parametrize("message", ["", "grüße\u0000", b"", b"\x00\xff", b"x" * 16 * MIB], ids=len)
@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_come_back_as_they_were(url: str, message: str | bytes, compression: str | None) -> None:
    """Text and bytes, up to the limit, compressed or not."""
    with opened(url, compression=compression) as connection:
        connection.send(message)
        assert connection.recv(60) == message


def test_a_longer_message_closes_with_1009(url: str) -> None:
    """Of the client, or of user code; who is still sending uvicorn may reset before the code has arrived."""
    with opened(url, compression=None) as connection, contextlib.suppress(ConnectionClosed):
        connection.send(bytes(16 * MIB + 1))
        connection.recv(60)
    assert connection.close_code in (1009, 1006)
    with opened(url, f"?send={16 * MIB + 1}") as connection:
        assert closed(connection)[0] == 1009


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (4321, 4321), (1005, 1000), (1015, 1011)])
def test_the_backends_close_arrives(url: str, code: int, seen: int) -> None:
    """With its reason; what may not leave as the nearest that may."""
    with opened(url, f"?close={code}") as connection:
        assert closed(connection) == (seen, "because")


def test_the_clients_close_arrives(url: str, handle: serve.Handle) -> None:
    """At user code, with its reason."""
    before = len(handle.options(method_name="ends").call())
    with opened(url) as connection:
        connection.close(4001, "bye")
    wait_until_equal(lambda: handle.options(method_name="ends").call()[before:], [[4001, "bye"]])


def test_pings_pass_both_ways(url: str) -> None:
    """While user code waits for a message."""
    with opened(url, ping_interval=None) as connection:
        assert connection.ping().wait(20)


def test_a_replica_that_retires_closes_with_1001(url: str, engine: serve.Client) -> None:
    """After the time that it has for what it had accepted; who comes then is served by its successor."""
    with opened(url) as connection:
        connection.send("here")
        connection.recv(20)
        updating = threading.Thread(target=engine.update_backend, args=(NAME, Talking))
        updating.start()
        assert closed(connection)[0] == 1001
        updating.join(60)
    with opened(url) as connection:
        connection.send("here")
        assert connection.recv(20) == "here"
