"""WebSockets that the ASGI adapters carry to an endpoint; the way itself has its tests beside the proxy's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import serve_bridge as serve
from serve_bridge.adapters.asgi.application import ServeBridgeMiddleware
from serve_bridge.adapters.starlette.extension import ServeBridge
from serve_bridge.testing.servers import serve_asgi
from tests.adapters.support.asgi_calls import LEFT, called


@pytest.fixture(scope="module")
def bridge(asgi_engine: serve.Client) -> Iterator[ServeBridge]:
    """A bridge to the instance, which outlives the applications that close it."""
    bridge = ServeBridge(asgi_engine.address)
    yield bridge
    bridge.close()


@pytest.fixture(scope="module")
def app(bridge: ServeBridge) -> Starlette:
    """An application with each way in."""
    return Starlette(
        routes=[
            WebSocketRoute("/chat/{room:int}", bridge.forward("chat")),
            WebSocketRoute("/missing", bridge.forward("missing")),
            Mount("/ml", app=bridge),
        ],
        middleware=[Middleware(ServeBridgeMiddleware, routes={"/ahead/{room}": "chat"}, bridge=bridge)],
    )


@pytest.mark.parametrize(
    ("path", "params"),
    [("/chat/7", {"room": ["int", 7]}), ("/ml/chat/7", {"room": ["int", 7]}), ("/ahead/7", {"room": ["str", "7"]})],
    ids=["route", "mount", "middleware"],
)
def test_messages_go_both_ways(app: Starlette, path: str, params: dict[str, Any]) -> None:
    """Over a route, a mount and a middleware, with typed parameters."""
    with TestClient(app) as client, client.websocket_connect(path) as socket:
        assert socket.receive_json()["params"] == params
        socket.send_text("hello")
        assert socket.receive_text() == "hello"


def test_the_backends_close_arrives(app: Starlette) -> None:
    """Code and reason."""
    with TestClient(app) as client, client.websocket_connect("/chat/7") as socket:
        socket.receive_json()
        socket.send_text("end")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert (closed.value.code, closed.value.reason) == (4001, "as you wish")


def test_the_backend_chooses_the_subprotocol(app: Starlette) -> None:
    """Among those that the client offers."""
    with TestClient(app) as client, client.websocket_connect("/chat/7", subprotocols=["a", "b"]) as socket:
        assert socket.accepted_subprotocol == "b"


@pytest.mark.parametrize(
    ("path", "status"), [("/missing", 503), ("/ml/nothing", 404), ("/ml/answer/x", 404)], ids=lambda value: str(value)
)
def test_an_unknown_endpoint_or_path_is_denied(app: Starlette, path: str, status: int) -> None:
    """With a problem, of a server that can send one."""
    with TestClient(app) as client, pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect(path):
        pass
    assert denied.value.status_code == status


def test_no_instance_denies_with_503(tmp_path: Any) -> None:
    """And a time to come back."""
    bridge = ServeBridge(str(tmp_path / "none.json"))
    client = TestClient(Starlette(routes=[WebSocketRoute("/x", bridge.forward("chat"))]))
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/x"):
        pass
    assert (denied.value.status_code, denied.value.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(("credentials", "arrives"), [(False, False), (True, True)])
def test_credentials_stay_unless_the_route_sends_them(bridge: ServeBridge, credentials: bool, arrives: bool) -> None:
    """Of the handshake, as of any request."""
    app = Starlette(routes=[WebSocketRoute("/x", bridge.forward("chat", credentials=credentials))])
    with TestClient(app) as client, client.websocket_connect("/x", headers={"cookie": "a=b"}) as socket:
        assert ("cookie" in socket.receive_json()["headers"]) is arrives


class Everybody(AuthenticationBackend):
    """Lets everybody in as one user."""

    async def authenticate(self, conn: Any) -> tuple[AuthCredentials, SimpleUser]:
        """Return the user."""
        return AuthCredentials(), SimpleUser("ada")


def test_the_context_goes_along(bridge: ServeBridge) -> None:
    """What the application knows of who connects."""
    route = WebSocketRoute("/x", bridge.forward("chat", context={"user": "user.username"}))
    app = Starlette(routes=[route], middleware=[Middleware(AuthenticationMiddleware, backend=Everybody())])
    with TestClient(app) as client, client.websocket_connect("/x") as socket:
        assert socket.receive_json()["state"]["user"] == "ada"


def test_a_middleware_hands_on_other_websockets(bridge: ServeBridge) -> None:
    """To the application's own routes."""

    async def own(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("own")
        await socket.close()

    app = ServeBridgeMiddleware(Starlette(routes=[WebSocketRoute("/own", own)]), routes={"/x": "chat"}, bridge=bridge)
    with TestClient(app) as client, client.websocket_connect("/own") as socket:
        assert socket.receive_text() == "own"


def test_a_client_that_leaves_before_the_handshake_gets_nothing(bridge: ServeBridge) -> None:
    """Not even a denial."""
    scope = {"type": "websocket", "path": "/nothing", "headers": []}
    assert called(bridge, scope, [{**LEFT, "type": "websocket.disconnect"}]) == []


def test_over_a_real_socket(app: Starlette) -> None:
    """As a web server carries it."""
    with serve_asgi(app) as url, connect(url.replace("http", "ws") + "/chat/7", proxy=None) as socket:
        socket.recv(20)
        socket.send("hello")
        assert socket.recv(20) == "hello"


def test_a_denial_over_a_real_socket(app: Starlette) -> None:
    """The status arrives."""
    with serve_asgi(app) as url, pytest.raises(InvalidStatus) as denied:
        connect(url.replace("http", "ws") + "/missing", proxy=None)
    assert denied.value.response.status_code == 503
