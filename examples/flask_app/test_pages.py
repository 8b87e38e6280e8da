"""The tests of the app, for `pytest examples/flask_app`. Its backend runs in this process, without Ray."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from examples.digits import held_out
from examples.flask_app import create_app
from examples.flask_app.pages import bridge

SAMPLES = Path(__file__).parents[1] / "static" / "samples"


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    """The app, with its backend inside."""
    app = create_app({"SERVE_BRIDGE_RUNTIME": "local"})
    yield app
    with app.app_context():
        bridge.client.shutdown()


@pytest.fixture
def client(app: Any) -> FlaskClient:
    """A client of the app."""
    found: FlaskClient = app.test_client()
    return found


def damaged_jpeg() -> bytes:
    """Return the first half of a JPEG."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


def huge_png() -> bytes:
    """Return a small file with a claimed size of 20,000 x 20,000 pixels."""
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


UNREADABLE = {
    "text": (b"seven", "not a picture"),
    "damaged JPEG": (damaged_jpeg(), "not a picture"),
    "damaged PNG": ((SAMPLES / "7.png").read_bytes()[:-30], "not a picture"),
    "bomb": (huge_png(), "picture"),
}


def test_a_picture_is_read(client: FlaskClient) -> None:
    """The page shows the digit and the picture."""
    page = client.post("/", data={"image": (SAMPLES / "7.png").open("rb")}).text
    assert "It is a <strong>7</strong>" in page
    assert "data:image/png;base64," in page


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("path", ["/", "/api/digits"])
def test_a_file_that_is_not_a_picture_is_a_bad_request(client: FlaskClient, path: str, name: str) -> None:
    """Users get a page and programs get an error, both with a sentence."""
    content, text = UNREADABLE[name]
    answer = client.post(path, data={"image": (io.BytesIO(content), "digit.png")})
    assert (answer.status_code, text in answer.text) == (400, True), answer.text


@pytest.mark.parametrize(
    "sent",
    [
        {},
        [],
        "abc",
        {"image": "abc"},
        {"pixels": "abc"},
        {"pixels": [[1, 2], [3]]},
        {"pixels": [[None] * 8] * 8},
        {"pixels": [[10**400] * 8] * 8},
    ],
)
def test_data_of_a_wrong_kind_is_a_bad_request(client: FlaskClient, sent: Any) -> None:
    """The answer tells the right format."""
    answer = client.post("/api/digits", json=sent)
    assert (answer.status_code, "8 lists of 8 numbers" in answer.text) == (400, True)


def test_programs_get_json(client: FlaskClient) -> None:
    """The forwarded route passes the answer of the backend on."""
    pixels, digit = held_out(1)[0]
    assert client.post("/api/digits", json={"pixels": pixels}).json["digit"] == digit  # type: ignore[index]  # it is JSON


def test_a_picture_that_is_too_large_is_told() -> None:
    """The page shows a sentence."""
    client = create_app({"MAX_CONTENT_LENGTH": 1000}).test_client()
    answer = client.post("/", data={"image": (io.BytesIO(bytes(2000)), "digit.png")})
    assert (answer.status_code, "too large" in answer.text) == (413, True)


def test_an_instance_that_is_away_is_told(tmp_path: Path) -> None:
    """The page shows a sentence, with the status of the error."""
    app = create_app({"SERVE_BRIDGE_ADDRESS": str(tmp_path / "instance.json")})
    answer = app.test_client().post("/", data={"image": (SAMPLES / "7.png").open("rb")})
    assert (answer.status_code, "The reader is not available" in answer.text) == (503, True)
