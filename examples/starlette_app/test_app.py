"""The tests of the app, for `pytest examples/starlette_app`. Its backends run in this process, without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from examples.digits import held_out
from examples.starlette_app import create_app

SAMPLES = Path(__file__).parents[1] / "static" / "samples"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of the app, with its backends inside."""
    with TestClient(create_app("local")) as client:
        yield client


def test_the_page_is_shown(client: TestClient) -> None:
    """The page has the script for drawing."""
    assert "draw.js" in client.get("/").text


def test_a_picture_is_read(client: TestClient) -> None:
    """A route of the instance below the mount answers."""
    answer = client.post("/ml/digits", files={"image": (SAMPLES / "7.png").read_bytes()})
    assert answer.json()["digit"] == 7


@pytest.mark.parametrize("sent", [{}, [1], {"image": "abc"}, {"pixels": [1, 2]}])
def test_data_of_a_wrong_kind_is_a_bad_request(client: TestClient, sent: Any) -> None:
    """The answer tells the right format."""
    answer = client.post("/ml/digits", json=sent)
    assert (answer.status_code, "8 lists of 8 numbers" in answer.text) == (400, True)


def test_a_drawing_is_read_again_and_again(client: TestClient) -> None:
    """One WebSocket carries all messages."""
    with client.websocket_connect("/drawing") as socket:
        for pixels, digit in held_out(3):
            socket.send_json({"pixels": pixels})
            assert socket.receive_json()["digit"] == digit


@pytest.mark.parametrize("message", ["{", "[]", "{}", json.dumps({"pixels": [1]})])
def test_a_message_of_a_wrong_kind_ends_the_drawing(client: TestClient, message: str) -> None:
    """The close has the right code and a reason."""
    with client.websocket_connect("/drawing") as socket:
        socket.send_text(message)
        with pytest.raises(WebSocketDisconnect) as left:
            socket.receive_json()
    assert (left.value.code, "8 lists of 8 numbers" in str(left.value.reason)) == (1003, True)
