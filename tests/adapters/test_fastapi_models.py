"""FastAPI: the response model of a typed stub, over answers of each kind."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

import serve_bridge as serve
from serve_bridge.adapters.starlette.extension import ServeBridge

SECRET = {"name": "ada", "secret": "s"}
LONG = {"name": "a" * 200_000, "secret": "s"}


class Account(BaseModel):
    """What may leave of an account."""

    name: str
    nick: str | None = None
    born: int = Field(default=1815, serialization_alias="bornIn")


async def _streamed() -> AsyncIterator[bytes]:
    body = json.dumps(SECRET).encode()
    for start in range(0, len(body), 5):
        yield body[start : start + 5]


async def _broken_off() -> AsyncIterator[bytes]:
    yield b'{"name": "ada"}' + b" " * 200_000
    raise RuntimeError("the backend fails in the middle")


def _cookies() -> Response:
    response = JSONResponse(SECRET, 201, headers={"x-own": "1", "etag": '"e"'})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


def _mark(response: Response) -> None:
    response.headers["x-mark"] = "1"


ANSWERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: SECRET,
    "long": lambda: LONG,
    "list": lambda: [SECRET, SECRET],
    "cookies": _cookies,
    "vendor": lambda: JSONResponse(SECRET, media_type="application/vnd.account+json; charset=utf-8"),
    "streamed": lambda: StreamingResponse(_streamed(), media_type="application/json"),
    "broken off": lambda: StreamingResponse(_broken_off(), media_type="application/json"),
    "error": lambda: JSONResponse(SECRET, 404),
    "text": lambda: PlainTextResponse('{"secret": 1}'),
    "nothing": lambda: Response(status_code=204),
    "lines": lambda: StreamingResponse(_streamed(), media_type="application/x-ndjson"),
    "wrong": lambda: {"secret": "s"},
    "no json": lambda: Response(b'{"secret": "s"', media_type="application/json"),
    "deep": lambda: Response(b"[" * 100_000, media_type="application/json"),
    "encoded": lambda: Response(
        gzip.compress(b"{}"), headers={"content-encoding": "gzip"}, media_type="text/json+json"
    ),
}


async def accounts(request: Any) -> Any:
    """Answer in the way that the query says."""
    return ANSWERS[request.query_params["as"]]()


async def asked(request: Any) -> dict[str, Any]:
    """Return the names of the headers that arrived."""
    return {"name": " ".join(request.headers.keys()), "secret": "s"}


@pytest.fixture(scope="module")
def bridge(engine: serve.Client) -> Iterator[ServeBridge]:
    """A bridge to an instance with these backends."""
    for backend in (accounts, asked):
        engine.create_backend(backend.__name__, backend)
        engine.create_endpoint(backend.__name__, backend=backend.__name__)
    bridge = ServeBridge(engine.address)
    yield bridge
    bridge.close()


def client(bridge: ServeBridge, endpoint: str = "accounts", **options: Any) -> TestClient:
    """Return a client of an application that has a stub with a model at "/"."""
    app = FastAPI()

    @app.api_route("/", methods=["GET", "HEAD"], **options)
    @bridge.endpoint(endpoint)
    async def stub() -> Account: ...

    return TestClient(app)


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({}, {"name": "ada", "nick": None, "bornIn": 1815}),
        ({"response_model_exclude_unset": True}, {"name": "ada"}),
        ({"response_model_exclude_none": True}, {"name": "ada", "bornIn": 1815}),
        ({"response_model_exclude_defaults": True}, {"name": "ada"}),
        ({"response_model_include": {"born"}}, {"bornIn": 1815}),
        ({"response_model_exclude": {"born"}}, {"name": "ada", "nick": None}),
        ({"response_model_by_alias": False}, {"name": "ada", "nick": None, "born": 1815}),
        ({"response_model": dict[str, str]}, SECRET),
        ({"response_model": None}, SECRET),
    ],
)
def test_the_model_of_the_route_applies(bridge: ServeBridge, options: dict[str, Any], content: Any) -> None:
    """The annotation of the stub, or what the route says in its place; None opts out."""
    answer = client(bridge, **options).get("/?as=plain")
    assert answer.json() == content
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("kind", ["plain", "long", "streamed", "vendor"])
def test_no_json_passes_the_model_by(bridge: ServeBridge, kind: str) -> None:
    """Whatever its size, its media type and the way that it comes."""
    answer = client(bridge, response_model_exclude_unset=True).get(f"/?as={kind}")
    assert answer.json() == {"name": (LONG if kind == "long" else SECRET)["name"]}
    assert answer.headers.get_list("content-type") == ["application/json"]


def test_a_list_of_models_applies(bridge: ServeBridge) -> None:
    """To each item."""
    found = client(bridge, response_model=list[Account], response_model_exclude_unset=True).get("/?as=list")
    assert found.json() == [{"name": "ada"}] * 2


def test_status_and_headers_are_the_backends(bridge: ServeBridge) -> None:
    """Each cookie among them, and the id of the request."""
    answer = client(bridge, status_code=200).get("/?as=cookies", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-own"], answer.headers["etag"]) == (201, "1", '"e"')
    assert [each.partition(";")[0] for each in answer.headers.get_list("set-cookie")] == ["a=1", "b=2"]
    assert answer.headers["x-request-id"] == "mine"
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("error", 404, '{"name":"ada","secret":"s"}'),
        ("text", 200, '{"secret": 1}'),
        ("lines", 200, json.dumps(SECRET)),
        ("nothing", 204, ""),
    ],
)
def test_no_model_applies_to_other_answers(bridge: ServeBridge, kind: str, status: int, text: str) -> None:
    """Errors, other media types, no body."""
    answer = client(bridge).get(f"/?as={kind}")
    assert (answer.status_code, answer.text) == (status, text)


@pytest.mark.parametrize("model", [Account, None])
@pytest.mark.parametrize("kind", ["cookies", "error", "text", "lines", "nothing"])
def test_headers_of_dependencies_stay_in_each_answer(bridge: ServeBridge, kind: str, model: Any) -> None:
    """Whether a model applies or not."""
    answer = client(bridge, dependencies=[Depends(_mark)], response_model=model).get(f"/?as={kind}")
    assert answer.headers["x-mark"] == "1"
    assert len(answer.headers.get_list("content-type")) == (0 if kind == "nothing" else 1)


@pytest.mark.parametrize("kind", ["wrong", "no json", "deep", "list"])
def test_what_the_model_does_not_take_is_an_error(bridge: ServeBridge, kind: str) -> None:
    """FastAPI's own, which is a 500."""
    http = client(bridge)
    with pytest.raises(ResponseValidationError):
        http.get(f"/?as={kind}")
    answer = TestClient(http.app, raise_server_exceptions=False).get(f"/?as={kind}")
    assert (answer.status_code, "secret" in answer.text) == (500, False)


def test_an_encoded_answer_is_an_error(bridge: ServeBridge) -> None:
    """It may hold what the model keeps back."""
    with pytest.raises(serve.ConfigError, match="Content-Encoding 'gzip'"):
        client(bridge).get("/?as=encoded")


def test_an_answer_that_breaks_off_is_a_502(bridge: ServeBridge) -> None:
    """Nothing of it has left."""
    answer = client(bridge).get("/?as=broken off")
    assert (answer.status_code, answer.json()) == (502, {"detail": "Bad Gateway"})


def test_a_whole_answer_without_encoding_is_asked_for(bridge: ServeBridge) -> None:
    """But only where a model applies."""
    asking = {"range": "bytes=0-1", "if-range": "x", "accept-encoding": "gzip"}
    names = client(bridge, "asked").get("/", headers=asking).json()["name"].split()
    assert not asking.keys() & set(names)
    every = client(bridge, "asked", response_model=None).get("/", headers=asking).json()["name"].split()
    assert asking.keys() <= set(every)


def test_the_answer_to_head_has_no_length(bridge: ServeBridge) -> None:
    """That of GET is known once the model was applied."""
    answer = client(bridge).head("/?as=plain")
    assert (answer.status_code, answer.content, "content-length" in answer.headers) == (200, b"", False)
    assert client(bridge, response_model=None).head("/?as=plain").headers["content-length"] == "27"


def test_the_model_applies_in_an_included_router(bridge: ServeBridge) -> None:
    """With what its dependencies say of the answer."""
    router = APIRouter(dependencies=[Depends(_mark)])

    @router.get("/account", response_model_exclude_unset=True)
    @bridge.endpoint("accounts")
    async def stub(response: Response, mark: Annotated[None, Depends(_mark)]) -> Account: ...

    app = FastAPI()
    app.include_router(router, prefix="/v1")
    answer = TestClient(app).get("/v1/account?as=plain")
    assert (answer.json(), answer.headers["x-mark"]) == ({"name": "ada"}, "1")
