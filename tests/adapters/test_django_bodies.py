"""Django: bodies are streamed, and arrive though something has read them before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.handlers.wsgi import WSGIHandler
from django.http.request import RawPostDataException
from django.test import AsyncClient, Client, override_settings

import serve_bridge as serve
from tests.adapters.support.django_site import CSRF, MIDDLEWARE, site

TOKEN = "x" * 32
MANY = 6_000_000  # above what Django holds in memory


@pytest.fixture(autouse=True, scope="module")
def running(engine: serve.Client) -> Iterator[None]:
    """The site, with CSRF protection."""
    with site(engine, MIDDLEWARE=[MIDDLEWARE, CSRF]):
        yield


@pytest.fixture
def browser() -> Client:
    """A client to whom CSRF protection applies."""
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = TOKEN
    return client


@pytest.mark.parametrize("length", [0, 5, 100_000, MANY])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_body_of_any_length_arrives(kind: str, length: int) -> None:
    """Longer ones than DATA_UPLOAD_MAX_MEMORY_SIZE too: nobody holds them."""
    options: Any = {"data": b"x" * length, "content_type": "application/octet-stream"}
    if kind == "sync":
        answer = Client().put("/size/", **options)
    else:
        answer = asyncio.run(AsyncClient().put("/async/size/", **options))
    assert answer.json()["length"] == length


def test_a_body_that_was_read_arrives() -> None:
    """Django keeps what `request.body` has read."""
    answer = Client().put("/after-body/", data=b"x" * 70_000, content_type="application/octet-stream")
    assert answer.json() == {"length": 70_000, "announced": "70000"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_form_that_was_parsed_arrives(kind: str) -> None:
    """Written again, in pieces: fields, then files, with their names and types."""
    given = {
        "text": ["a", "é"],
        'odd"name': "1",
        "small": SimpleUploadedFile('é".txt', b"content", "text/plain"),
        "large": SimpleUploadedFile("l.bin", b"x" * MANY, "application/x-own"),
    }
    if kind == "sync":
        answer = Client().post("/after-post/", given)
    else:
        answer = asyncio.run(AsyncClient().post("/async/uploaded/", given))  # CsrfViewMiddleware parses it
    assert answer.json()[:3] == [["text", "a"], ["text", "é"], ['odd"name', "1"]]
    assert [part[2:] for part in answer.json()[3:]] == [["text/plain", 7], ["application/x-own", MANY]]


def test_a_form_without_files_arrives_as_it_was() -> None:
    """Django keeps the body of such a form."""
    answer = Client().post("/after-post/", "a=1&b=%C3%A9", content_type="application/x-www-form-urlencoded")
    assert answer.json() == [["a", "1"], ["b", "é"]]


def test_an_empty_form_arrives() -> None:
    """It has an end, and nothing before that."""
    assert Client().post("/after-post/", {}).json() == []


@pytest.mark.parametrize(
    "framing",
    [
        pytest.param({}, id="with a length"),
        pytest.param(
            {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}, id="in chunks"
        ),
    ],
)
def test_a_body_that_somebody_has_taken_is_an_error(framing: dict[str, Any]) -> None:
    """Which says what to do."""
    with pytest.raises(RawPostDataException, match=r"must use request\.body"):
        Client().put("/after-read/", data=b"12345", content_type="application/octet-stream", **framing)


@pytest.mark.parametrize("length", [11, MANY])
def test_a_body_above_the_routes_limit_is_a_413(length: int) -> None:
    """A problem, with the request's id."""
    answer = Client().put("/limited/", data=b"x" * length, content_type="application/octet-stream")
    assert (answer.status_code, answer["content-type"]) == (413, "application/problem+json")
    assert answer["x-request-id"]


class Leaving:
    """The body of a client that leaves."""

    def read(self, size: int = -1) -> bytes:
        """Fail as servers do."""
        raise ConnectionResetError("gone")

    def readline(self, size: int = -1) -> bytes:
        """Fail as servers do."""
        raise ConnectionResetError("gone")


class Ending(Leaving):
    """The same, of a server that only says that no more comes."""

    def read(self, size: int = -1) -> bytes:
        """End."""
        return b""


@pytest.mark.parametrize("kind", [Leaving, Ending])
@pytest.mark.parametrize("media_type", ["application/octet-stream", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize("length", ["100", "1000000"])
def test_a_client_that_leaves_during_its_upload_is_a_400(
    kind: type[Leaving], media_type: str, length: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And no traceback for the log, though Django's own middleware was the one to notice."""
    started: list[str] = []
    environ = {
        **Client()._base_environ(),
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/size/",
        "CONTENT_TYPE": media_type,
        "CONTENT_LENGTH": length,
        "HTTP_COOKIE": f"csrftoken={TOKEN}",
        "HTTP_X_CSRFTOKEN": TOKEN,
        "wsgi.input": kind(),
    }
    with override_settings(MIDDLEWARE=[MIDDLEWARE, CSRF]):
        list(WSGIHandler()(environ, lambda status, headers: started.append(status)))
    assert started == ["400 Bad Request"]
    assert not [record for record in caplog.records if record.exc_info and record.levelname == "ERROR"]


def test_a_forwarded_post_needs_the_csrf_token(browser: Client) -> None:
    """As any other view's."""
    assert browser.post("/form/", {"a": "b"}).status_code == 403
    assert browser.post("/async/form/", {"a": "b"}).status_code == 403


def test_a_token_in_the_header_is_enough(browser: Client) -> None:
    """The form goes on."""
    assert browser.post("/form/", {"a": "b"}, headers={"x-csrftoken": TOKEN}).json() == {"a": "b"}


def test_a_token_in_an_uploads_form_is_enough(browser: Client) -> None:
    """Django reads the form for it; the backend gets the same form."""
    upload = SimpleUploadedFile("f.txt", b"content", "text/plain")
    answer = browser.post("/form/", {"csrfmiddlewaretoken": TOKEN, "file": upload})
    assert answer.json()["file"] == ["f.txt", "content"]


def test_a_route_may_do_without_the_token(browser: Client) -> None:
    """It says so itself."""
    answer = browser.post("/exempt/", b"12345", content_type="application/json")
    assert answer.json()["length"] == 5
