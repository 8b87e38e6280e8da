"""The id of a request, in everything that works for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.websockets import WebSocket
from websockets.sync.client import connect

import serve_bridge as serve
from tests.support.serving import Serving
from tests.support.waiting import wait_until_equal

OWN = {"X-Request-Id": "own-1"}


class Heard(logging.Handler):
    """Keeps the request id of each record, as a user's handler would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(serve.RequestIdFilter())
        self.ids: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the id."""
        self.ids.append(record.request_id)  # type: ignore[attr-defined]


def plain(request: Any) -> Any:
    """Tell the id."""
    return serve.request_id()


async def awaited(request: Any) -> Any:
    """Tell the id, after others had their turn."""
    await asyncio.sleep(0)
    return serve.request_id()


def steps(request: Any) -> Iterator[str]:
    """Tell the id in each step."""
    for _ in range(2):
        yield f"{serve.request_id()};"


async def awaited_steps(request: Any) -> AsyncIterator[str]:
    """Tell the id in each step."""
    for _ in range(2):
        await asyncio.sleep(0)
        yield f"{serve.request_id()};"


def streamed(request: Any) -> Response:
    """Tell the id in each step of a response."""
    return StreamingResponse(steps(request))


def in_a_thread(request: Any) -> Any:
    """Tell the id from a thread that was given this one's context."""
    return asyncio.run(asyncio.to_thread(serve.request_id))


def logged(request: Any) -> Any:
    """Tell the id that a record of the log has."""
    heard = Heard()
    logger = logging.getLogger("tests.logged")
    logger.addHandler(heard)
    try:
        logger.warning("something")
    finally:
        logger.removeHandler(heard)
    return heard.ids[0]


class Later:
    """Tells the id that a background task saw."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def __call__(self, request: Any) -> Response:
        """Answer, and go on."""
        return PlainTextResponse("soon", background=BackgroundTask(self.note))

    def note(self) -> None:
        """Note the id."""
        self.seen.append(serve.request_id())

    def told(self) -> list[str | None]:
        """Return what was seen."""
        return self.seen


class Caller:
    """Calls another endpoint."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    async def __call__(self, request: Any) -> Any:
        """Return the own id, and those that the callee sees: by a call, and by a call of a thread."""
        handle = serve.connect().get_handle(self.endpoint)
        by_thread = await asyncio.to_thread(handle.call)
        return [serve.request_id(), await handle.acall(), by_thread, await handle.acall(request)]


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Tell the id and the header, as a WSGI application."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{serve.request_id()} {environ['HTTP_X_REQUEST_ID']}".encode()]


async def async_application(scope: Any, receive: Any, send: Any) -> None:
    """Tell the id and the header, as an ASGI application."""
    await JSONResponse([serve.request_id(), dict(scope["headers"])[b"x-request-id"].decode()])(scope, receive, send)


async def talk(websocket: WebSocket) -> None:
    """Tell the id for each message."""
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(str(serve.request_id()))


def header(request: Any) -> Any:
    """Tell the id and the header."""
    return [serve.request_id(), request.headers["x-request-id"]]


@serve.accept_batch
def batched(requests: list[Any]) -> list[Any]:
    """Tell each the id of the batch and its own."""
    return [[serve.request_id(), request.headers["x-request-id"]] for request in requests]


@pytest.mark.parametrize("code", [plain, awaited, in_a_thread, logged])
def test_user_code_knows_the_id_of_a_request(serving: Serving, http: httpx.Client, code: Any) -> None:
    """On the loop, on the replica's threads, on others, and in a record of the log."""
    assert http.get(serving(code).route, headers=OWN).text == "own-1"


@pytest.mark.parametrize("code", [steps, awaited_steps, streamed])
def test_each_step_of_a_generator_knows_the_id(serving: Serving, http: httpx.Client, code: Any) -> None:
    """As it is iterated."""
    assert http.get(serving(code).route, headers=OWN).text == "own-1;own-1;"


def test_a_background_task_knows_the_id(serving: Serving, http: httpx.Client) -> None:
    """After the answer."""
    served = serving(Later)
    assert http.get(served.route, headers=OWN).text == "soon"
    wait_until_equal(served.handle.options(method_name="told").call, ["own-1"])


def test_applications_know_the_id(serving: Serving, http: httpx.Client) -> None:
    """The header is what `request_id` says, though the client sent one that is not valid."""
    told = http.get(serving.mount(serve.wsgi_app(application)).route, headers={"X-Request-Id": "not valid"})
    assert told.text.split() == [told.headers["x-request-id"]] * 2
    answer = http.get(serving.mount(serve.asgi_app(async_application)).route, headers={"X-Request-Id": "not valid"})
    assert answer.json() == [answer.headers["x-request-id"]] * 2


def test_a_websocket_knows_the_id_until_it_is_closed(serving: Serving, client: serve.Client) -> None:
    """For each message."""
    url = client.http_urls[0].replace("http", "ws", 1) + serving(talk).route
    with connect(url, additional_headers=OWN, proxy=None) as websocket:
        for _ in range(2):
            websocket.send("id?")
            assert websocket.recv() == "own-1"


def test_the_id_reaches_what_user_code_calls(serving: Serving, http: httpx.Client) -> None:
    """From the loop and from threads, also with the request itself."""
    called = serving(plain)
    assert http.get(serving(Caller, called.name).route, headers=OWN).json() == ["own-1"] * 4


def test_a_python_call_has_an_id_of_its_own(serving: Serving) -> None:
    """Each another, in the header too; it reaches what the callee calls."""
    handle = serving(header).handle
    first, second = handle.call(), handle.call()
    assert first[0] == first[1] != second[0] == second[1]
    ids = serving(Caller, serving(plain).name).handle.call()
    assert len(set(ids)) == 1
    assert ids[0]


def test_a_python_call_takes_a_valid_id_of_its_callers_choice(serving: Serving) -> None:
    """As the header of an HTTP request; one that is not valid is replaced."""
    handle = serving(header).handle
    assert handle.options(http_headers=OWN).call() == ["own-1", "own-1"]
    made, told = handle.options(http_headers={"x-request-id": "not valid"}).call()
    assert made == told != "not valid"


def test_each_item_of_a_stream_knows_the_id(serving: Serving) -> None:
    """All the same one."""
    first, second = serving(steps).handle.stream()
    assert first == second != "None;"


def test_requests_of_a_batch_have_their_own_ids(serving: Serving, http: httpx.Client) -> None:
    """The batch has none, unless all of its requests have one and the same."""
    served = serving(batched, config={"max_batch_size": 2, "batch_wait_timeout": 20.0})

    async def calls(*ids: str) -> list[Any]:
        handles = (served.handle.options(http_headers={"x-request-id": each}) for each in ids)
        return await asyncio.gather(*(handle.acall() for handle in handles))

    assert asyncio.run(calls("a", "b")) == [[None, "a"], [None, "b"]]
    assert asyncio.run(calls("c", "c")) == [["c", "c"], ["c", "c"]]


def test_a_thread_of_the_callers_has_no_id(serving: Serving) -> None:
    """Nothing is served there; a record of the log says so."""
    serving(plain).handle.call()
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(serve.request_id()))
    thread.start()
    thread.join()
    assert found == [serve.request_id()] == [None]
    assert logged(None) == "-"
