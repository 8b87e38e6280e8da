"""Tests of WebSockets."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from serve_bridge.testing.fronts.front import Front, needs
from serve_bridge.testing.fronts.request_ids import ids_of
from serve_bridge.testing.fronts.routes import CLAIMS


class WebSocketContract(Front):
    """A WebSocket reaches user code, with path, query, headers and request id."""

    @needs("websockets")
    def test_a_websocket_carries_messages_both_ways(self, serve_bridge_front: str) -> None:
        """Text and bytes arrive in order."""
        with _websocket(serve_bridge_front, "/echo") as websocket:
            websocket.recv()
            for message in ("one", b"two", "drei ü", b""):
                websocket.send(message)
            assert [websocket.recv() for _ in range(4)] == ["one", b"two", "drei ü", b""]

    @needs("websockets")
    def test_a_websocket_knows_its_request(self, serve_bridge_front: str) -> None:
        """User code sees path, query, parameters and headers."""
        with _websocket(serve_bridge_front, "/echo/a/b?x=1&x=2", additional_headers={"x-mine": "yes"}) as websocket:
            seen = httpx.Response(200, content=websocket.recv()).json()
        assert (seen["path"], seen["query"], seen["params"]) == ("/echo/a/b", "x=1&x=2", {"rest": "a/b"})
        assert dict(seen["headers"])["x-mine"] == "yes"

    @needs("websockets")
    def test_the_same_headers_stay_as_with_a_request(self, serve_bridge_front: str) -> None:
        """They are hop-by-hop headers, those in `Connection`, and a client's claims about its origin."""
        given = {**CLAIMS, "proxy": "http://evil", "connection": "Upgrade, x-hop", "x-hop": "1", "x-mine": "yes"}
        with _websocket(serve_bridge_front, "/echo", additional_headers=given) as websocket:
            names = {name for name, _ in httpx.Response(200, content=websocket.recv()).json()["headers"]}
        assert not {*CLAIMS, "proxy", "x-hop"} & names
        assert "x-mine" in names

    @needs("websockets")
    def test_a_websocket_agrees_on_a_subprotocol(self, serve_bridge_front: str) -> None:
        """The backend chooses one of those that the client offers."""
        offered = [Subprotocol("a"), Subprotocol("b")]
        with _websocket(serve_bridge_front, "/echo", subprotocols=offered) as websocket:
            assert websocket.subprotocol == "b"

    @needs("websockets")
    def test_the_case_of_a_header_does_not_matter_to_a_websocket(self, serve_bridge_front: str) -> None:
        """This is true of an accepted and of a denied handshake."""
        with _websocket(serve_bridge_front, "/echo") as websocket:
            assert websocket.response is not None
            accepted = websocket.response.headers
        with pytest.raises(InvalidStatus) as denied, _websocket(serve_bridge_front, "/echo?deny"):
            pass
        for headers in (accepted, denied.value.response.headers):
            assert sorted(headers.get_all("set-cookie")) == ["a=1", "b=2"]
            assert len(headers.get_all("x-request-id")) == 1
            assert "forged" not in headers.get_all("x-request-id")
            assert "x-serve-executed" not in headers

    @needs("websockets")
    def test_a_websocket_is_closed_by_the_backend(self, serve_bridge_front: str) -> None:
        """The client gets code and reason of the backend."""
        with _websocket(serve_bridge_front, "/echo") as websocket:
            websocket.recv()
            websocket.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")

    @needs("websockets")
    def test_a_websocket_without_a_route_is_denied(self, serve_bridge_front: str) -> None:
        """The handshake fails."""
        with pytest.raises(InvalidStatus), _websocket(serve_bridge_front, "/nowhere"):
            pass

    @needs("websockets")
    @pytest.mark.parametrize("given", ["mine-3", "no id, too many words"])
    def test_a_websocket_knows_the_request_id(self, serve_bridge_front: str, given: str) -> None:
        """A valid id of the client is kept, any other is replaced."""
        with _websocket(serve_bridge_front, "/echo", additional_headers={"x-request-id": given}) as websocket:
            seen = httpx.Response(200, content=websocket.recv()).json()
        assert ids_of(seen) == [seen["request_id"]]
        assert (seen["request_id"] == given) is (given == "mine-3")


def _websocket(url: str, target: str, **options: Any) -> ClientConnection:
    target = url.replace("http", "ws", 1) + target
    websocket: ClientConnection = connect(target, open_timeout=15, proxy=None, compression=None, **options)
    return websocket
