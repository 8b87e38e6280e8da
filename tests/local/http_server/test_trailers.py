"""Trailers at the edge: whatever an application sends, framing holds, and only who has asked for trailers gets any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h11
import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.support.edge_server import Running, running

START = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
BODY = {"type": "http.response.body", "body": b"body"}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"X-A", b"1")]}
SEQUENCES: dict[str, list[Message]] = {
    "whole": [START, BODY, TRAILERS],
    "in two": [START, BODY, {**TRAILERS, "headers": [], "more_trailers": True}, TRAILERS],
    "hop by hop": [START, BODY, {**TRAILERS, "headers": [(b"transfer-encoding", b"x"), *TRAILERS["headers"]]}],
    "before the end of the body": [START, {**BODY, "more_body": True}, TRAILERS],
    "before the body": [START, TRAILERS, BODY],
    "before more of the body": [START, BODY, BODY, TRAILERS],
    "undeclared": [{**START, "trailers": False}, {**BODY, "more_body": True}, TRAILERS],
    "line end": [START, BODY, {**TRAILERS, "headers": [(b"x-a", b"1\r\nx-injected: 1")]}],
    "bad name": [START, BODY, {**TRAILERS, "headers": [(b"x a", b"1")]}],
    "never": [START, BODY],
}


@pytest.fixture(scope="module")
def edge() -> Iterator[Running]:
    """A server whose application answers `/trailers` with the sequence that the query names."""

    async def trailers(scope: Scope, receive: Receive, send: Send) -> None:
        for message in SEQUENCES[scope["query_string"].decode().replace("+", " ")]:
            await send(message)

    with running() as edge:
        vars(edge.app)["trailers"] = trailers
        yield edge


def ask(edge: Running, name: str, *headers: str, version: str = "1.1") -> tuple[bytes, Any]:
    """Return body and trailers of the answer.

    Raises:
        RemoteProtocolError: It was cut off.
    """
    target = f"/trailers?{name.replace(' ', '+')}"
    lines = [f"GET {target} HTTP/{version}", "Host: a", "Connection: close", *headers, "", ""]
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(edge.exchange("\r\n".join(lines).encode()))
    client.receive_data(b"")
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            assert event.status_code == 200
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    return body, list(event.headers)


@pytest.mark.parametrize("name", ["whole", "in two", "hop by hop"])
def test_trailers_follow_the_last_chunk(edge: Running, name: str) -> None:
    """Those that are not the edge's own."""
    assert ask(edge, name, "TE: trailers") == (b"body", [(b"x-a", b"1")])


def test_who_has_not_asked_gets_none(edge: Running) -> None:
    """Although the application sends them."""
    assert ask(edge, "whole") == (b"body", [])


def test_http_1_0_has_none(edge: Running) -> None:
    """There is no last chunk for them to follow."""
    assert ask(edge, "whole", "TE: trailers", version="1.0") == (b"body", [])


CUT = ["before the end of the body", "before more of the body", "line end", "bad name", "never", "undeclared"]


@pytest.mark.parametrize("name", CUT)
def test_an_application_that_breaks_the_order_is_cut_off(edge: Running, name: str) -> None:
    """There is no final chunk that would make the answer look whole."""
    with pytest.raises(h11.RemoteProtocolError):
        ask(edge, name, "TE: trailers")


def test_trailers_before_the_body_are_a_500(edge: Running) -> None:
    """Nothing of the answer is out by then."""
    assert edge.exchange(b"GET /trailers?before+the+body HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 500 ")
