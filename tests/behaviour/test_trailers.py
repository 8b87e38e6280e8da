"""Trailers: what user code says after an answer's body, to clients that have asked for it with `TE: trailers`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import h11
import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import serve_bridge as serve
from tests.support.serving import Served, Serving

Pairs = list[tuple[bytes, bytes]]
DIGEST: Pairs = [(b"X-Digest", b"abc"), (b"x-digest", b"def")]
EXTENSION = "http.response.trailers"


class WithTrailers(Response):
    """An answer with trailers, in two messages."""

    def __init__(self, trailers: Sequence[Pairs], parts: Sequence[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self.raw_headers += [(name.encode(), value.encode()) for name, value in headers.items() if name != "x"]
        self.trailers = trailers
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send body and trailers, whether the client has asked for them or not."""
        offered = (b"x-offered", str(EXTENSION in scope["extensions"]).encode())
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": [*self.raw_headers, offered],
                "trailers": True,
            }
        )
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})
        for number, trailers in enumerate(self.trailers, 1):
            await send({"type": EXTENSION, "headers": trailers, "more_trailers": number < len(self.trailers)})


ANSWERS: dict[str, tuple[Sequence[Pairs], Sequence[bytes], dict[str, str]]] = {
    "short": ([DIGEST], [b"body"], {}),
    "two messages": ([DIGEST[:1], DIGEST[1:]], [b"body"], {}),
    "long": ([DIGEST], [b"x" * 200_000] * 10, {}),
    "empty body": ([DIGEST], [], {}),
    "none": ([[]], [b"body"], {}),
    "forbidden": (
        [[(b"Content-Length", b"3"), (b"set-cookie", b"a=1"), (b"x-serve-executed", b"no"), *DIGEST]],
        [b"body"],
        {},
    ),
    "length": ([DIGEST], [b"body"], {"content-length": "4"}),
    "split": ([[(b"x-digest", b"a\r\nx-injected: 1")]], [b"body"], {}),
    "many": ([[(b"x-digest", b"a")] * 101], [b"body"], {}),
    "text": ([[("x-digest", "a")]], [b"body"], {}),  # type: ignore[list-item]
    "unsaid": ([], [b"body"], {}),
}


async def answer(request: Any) -> Response:
    """Return the answer that the query names."""
    trailers, parts, headers = ANSWERS[request.query_params["name"]]
    return WithTrailers(trailers, parts, headers)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The same as an application."""
    assert scope["type"] == "http"
    name = scope["query_string"].decode().partition("=")[2].replace("%20", " ")
    await WithTrailers(*ANSWERS[name])(scope, receive, send)


@pytest.fixture(scope="module")
def answers(module_serving: Serving) -> Served:
    """A backend whose answers have trailers."""
    return module_serving(answer)


def ask(
    http: httpx.Client, route: str, name: str, *headers: str, method: str = "GET"
) -> tuple[dict[bytes, bytes], bytes, Pairs]:
    """Return headers, body and trailers.

    Raises:
        RemoteProtocolError: The answer was cut off.
    """
    where = urlsplit(str(http.base_url))
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "127.0.0.1")]))
    client.send(h11.EndOfMessage())
    target = f"{route}?name={name.replace(' ', '%20')}"
    with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close, te", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        while data := connection.recv(65536):
            client.receive_data(data)
    client.receive_data(b"")
    found, body = {}, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            found = dict(event.headers)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    assert not client.trailing_data[0]
    return found, body, [(bytes(name), bytes(value)) for name, value in event.headers]


LOWERED = [(name.lower(), value) for name, value in DIGEST]


@pytest.mark.parametrize("te", ["TE: trailers", "TE: gzip;q=0.5, Trailers", "te: deflate\r\nTE: trailers;q=1"])
def test_who_asks_for_trailers_gets_them(answers: Served, http: httpx.Client, te: str) -> None:
    """After the body; user code has been told that it may send them."""
    headers, body, trailers = ask(http, answers.route, "short", te)
    assert (headers[b"x-offered"], body, trailers) == (b"True", b"body", LOWERED)


@pytest.mark.parametrize("te", ["TE: gzip", "TE: trailersx", "X-TE: trailers"])
def test_who_does_not_ask_gets_none(answers: Served, http: httpx.Client, te: str) -> None:
    """The rest is the same, and user code has been told."""
    headers, body, trailers = ask(http, answers.route, "short", te)
    assert (headers[b"x-offered"], body, trailers) == (b"False", b"body", [])


@pytest.mark.parametrize("name", ["two messages", "long", "empty body", "forbidden"])
def test_trailers_follow_any_body(answers: Served, http: httpx.Client, name: str) -> None:
    """Without those that may be no trailers."""
    _, body, trailers = ask(http, answers.route, name, "TE: trailers")
    assert (body, trailers) == (b"".join(ANSWERS[name][1]), LOWERED)


@pytest.mark.parametrize("name", ["none", "length"])
def test_an_answer_without_room_for_trailers_has_none(answers: Served, http: httpx.Client, name: str) -> None:
    """A length says where the answer ends, and there are no chunks behind which they could stand."""
    assert ask(http, answers.route, name, "TE: trailers")[1:] == (b"body", [])


@pytest.mark.parametrize("name", ["split", "many", "text", "unsaid"])
def test_trailers_that_cannot_be_sent_cut_the_answer(answers: Served, http: httpx.Client, name: str) -> None:
    """It has begun; the client can tell that it is not whole."""
    with pytest.raises(h11.RemoteProtocolError):
        ask(http, answers.route, name, "TE: trailers")


def test_head_has_no_trailers(answers: Served, http: httpx.Client) -> None:
    """Nor a body."""
    assert ask(http, answers.route, "short", "TE: trailers", method="HEAD")[1:] == (b"", [])


@pytest.mark.parametrize(("headers", "expected"), [(["TE: trailers"], LOWERED), ([], [])], ids=["asked", "not asked"])
def test_an_application_has_trailers_too(
    client: serve.Client, serving: Serving, http: httpx.Client, headers: list[str], expected: Pairs
) -> None:
    """By the extension of ASGI."""
    name = serving.name()
    client.create_backend(name, serve.asgi_app(application))
    client.create_endpoint(name, backend=name, route=f"/{name}")
    assert ask(http, f"/{name}", "short", *headers)[1:] == (b"body", expected)
