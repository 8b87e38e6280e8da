"""What holds behind every front end alike: the adapters, and where it is meant for it too, the proxy."""

from __future__ import annotations

import httpx
import pytest


def test_the_request_arrives_as_it_was_sent(front: httpx.Client) -> None:
    """Method, path, typed parameters, query, headers and body."""
    seen = front.put("/echo/7/a/b?x=1&x=2", content=b"hello", headers={"x-mine": "yes"}).json()
    assert (seen["method"], seen["path"], seen["body"]) == ("PUT", "/echo/7/a/b", "hello")
    assert seen["params"] == {"count": ["int", "7"], "rest": ["str", "a/b"]}
    assert seen["query"] == [["x", "1"], ["x", "2"]]
    assert seen["headers"]["x-mine"] == "yes"


def test_a_long_body_arrives_whole(front: httpx.Client) -> None:
    """It does not fit into the head of the request."""
    body = "0123456789" * 20_000
    assert front.post("/echo/1/x", content=body).json()["body"] == body


def test_a_form_with_a_file_arrives(front: httpx.Client) -> None:
    """As multipart, parsed by the backend."""
    answer = front.post("/form", data={"name": "n"}, files={"file": ("f.txt", b"content", "text/plain")})
    assert answer.json() == {"name": "n", "file": ["f.txt", "content"]}


def test_an_answer_is_streamed(front: httpx.Client) -> None:
    """All chunks arrive, in order."""
    assert front.get("/chunks").text == "".join(f"{number}\n" * 50_000 for number in range(3))


def test_status_headers_and_cookies_come_back(front: httpx.Client) -> None:
    """But no header of the engine's own."""
    answer = front.get("/answer")
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (418, "teapot", "1")
    assert "x-serve-secret" not in answer.headers
    assert {cookie.split("=")[0].strip() for cookie in answer.headers.get_list("set-cookie")} == {"a", "b"}


def test_a_failing_backend_is_a_500_that_says_nothing(front: httpx.Client) -> None:
    """But for the request's id."""
    answer = front.get("/failing", headers={"x-request-id": "mine-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine-1")
    assert "secret" not in answer.text


def test_a_status_raised_by_the_backend_is_kept(front: httpx.Client) -> None:
    """A Starlette HTTPException is an answer."""
    assert front.get("/forbidden").status_code == 403


def test_an_unknown_endpoint_is_a_404(adapter: httpx.Client) -> None:
    """As the routing table has it at that moment."""
    assert adapter.get("/missing").status_code == 404


def test_a_route_names_the_backends_method(adapter: httpx.Client) -> None:
    """JSON and query become its arguments."""
    assert adapter.post("/add?by=2", json=3).json() == {"sum": 5}


def test_no_header_chooses_the_method_unless_the_route_allows_it(adapter: httpx.Client) -> None:
    """Who may call what is the application's to decide."""
    assert adapter.get("/counter", headers={"x-serve-call-method": "add"}).text == "call"


@pytest.mark.parametrize("name", ["cookie", "authorization"])
def test_credentials_stay_with_the_application(adapter: httpx.Client, name: str) -> None:
    """Unless a route says otherwise."""
    assert name not in adapter.get("/echo/1/x", headers={name: "a=b"}).json()["headers"]


def test_an_empty_control_header_is_a_400(front: httpx.Client) -> None:
    """It means nothing, so nothing is guessed."""
    assert front.get("/counter", headers={"x-serve-shard-key": ""}).status_code == 400
