"""What user code may return, raise and yield that no server likes: each has one outcome, and the replica lives.

The ids are those of the table of bad inputs: U for what user code returns, H and D for what its answer meets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import httpx
import pytest
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse

from tests.support.runtimes import RAY_ONCE
from tests.support.serving import Served, Serving
from tests.support.waiting import wait_until

SECRET = "only for the log"
RAISED: Mapping[str, Callable[[], BaseException]] = {
    error.__name__: lambda error=error: error(SECRET)  # type: ignore[misc]
    for error in (
        *(ValueError, SystemExit, KeyboardInterrupt, BaseException, StopIteration, StopAsyncIteration),
        *(GeneratorExit, asyncio.CancelledError, OSError, TimeoutError),
    )
}


def raise_sync(request: Any) -> Any:
    """Raise what the query names."""
    raise RAISED[request.query_params["error"]]()


async def raise_async(request: Any) -> Any:
    """Raise what the query names."""
    raise RAISED[request.query_params["error"]]()


def yield_sync(request: Any) -> Iterator[str]:
    """Yield as often as the query says, then raise what it names."""
    yield from ["part"] * int(request.query_params["parts"])
    raise RAISED[request.query_params["error"]]()


async def yield_async(request: Any) -> AsyncIterator[str]:
    """Yield as often as the query says, then raise what it names."""
    for _ in range(int(request.query_params["parts"])):
        yield "part"
    raise RAISED[request.query_params["error"]]()


def stream_sync(request: Any) -> Response:
    """Return a StreamingResponse over a generator."""
    return StreamingResponse(yield_sync(request))


async def stream_async(request: Any) -> Response:
    """Return a StreamingResponse over an asynchronous generator."""
    return StreamingResponse(yield_async(request))


FORMS = {code.__name__: code for code in (raise_sync, raise_async, yield_sync, yield_async, stream_sync, stream_async)}


def with_raw_header(name: Any, value: Any, response: Response | None = None) -> Response:
    """Return a Response with a header that Starlette has not looked at."""
    response = response or Response(b"body")
    response.raw_headers.append((name, value))
    return response


def with_status(status: Any) -> Response:
    """Return a Response whose status nobody has looked at."""
    response = Response(b"body")
    response.status_code = status
    return response


def raising(error: BaseException) -> Any:
    """Raise *error*."""
    raise error


def streamed(*parts: Any, status: int = 200, **headers: str) -> Response:
    """Return a StreamingResponse of *parts*."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return StreamingResponse(iter(parts), status, headers=named)


async def parts(*given: Any) -> AsyncIterator[Any]:
    """Yield *given*."""
    for part in given:
        yield part


CUT = -1
"""The connection ends in the middle of the answer, and the client can tell."""
ODD: Mapping[str, tuple[Callable[[], Any], int, bytes | None]] = {
    "U01 object": (object, 500, None),
    "U01 complex in a dict": (lambda: {"c": 1j}, 500, None),
    "U03 status 99": (lambda: with_status(99), 500, None),
    "U03 status 100": (lambda: with_status(100), 500, None),
    "U03 status 600": (lambda: with_status(600), 500, None),
    "U03 status of text": (lambda: with_status("200"), 500, None),
    "U03 status None": (lambda: with_status(None), 500, None),
    "U03 status 600 of a stream": (lambda: streamed(b"a", status=600), 500, None),
    "U03 status 600 raised": (lambda: raising(HTTPException(600, "no status")), 500, None),
    "U03 status 99 raised": (lambda: raising(HTTPException(99, "no status")), 500, None),
    "U03 status 123": (lambda: Response(b"", 123), 123, b""),
    "U04 CR LF in a value": (lambda: with_raw_header(b"x-own", b"1\r\nx-injected: 1"), 500, None),
    "U04 LF in a value": (lambda: with_raw_header(b"x-own", b"1\nx-injected: 1"), 500, None),
    "U04 NUL in a value": (lambda: with_raw_header(b"x-own", b"\0"), 500, None),
    "U04 CR LF in a name": (lambda: with_raw_header(b"x-injected: 1\r\nx-own", b"1"), 500, None),
    "U04 empty name": (lambda: with_raw_header(b"", b"1"), 500, None),
    "U04 CR LF in a stream's value": (
        lambda: with_raw_header(b"x-own", b"1\r\nx-injected: 1", streamed(b"a")),
        500,
        None,
    ),
    "U04 CR LF in what is raised": (
        lambda: raising(HTTPException(400, headers={"x-own": "1\r\nx-injected: 1"})),
        500,
        None,
    ),
    "U04 number in what is raised": (
        lambda: raising(HTTPException(429, headers={"retry-after": 5})),  # type: ignore[dict-item]
        500,
        None,
    ),
    "U04 no Latin-1 in what is raised": (lambda: raising(HTTPException(400, headers={"x-own": "€"})), 500, None),
    "U04 length in what is raised": (lambda: raising(HTTPException(400, headers={"content-length": "3"})), 500, None),
    "U04 detail of another type": (lambda: raising(HTTPException(400, object())), 500, None),  # type: ignore[arg-type]
    "U04 no Latin-1": (lambda: Response(headers={"x-own": "€"}), 500, None),
    "U04 pair of text": (lambda: with_raw_header("x-own", "1"), 500, None),
    "U04 number": (lambda: with_raw_header(b"x-own", 1), 500, None),
    "U04 100 KiB": (lambda: with_raw_header(b"x-own", b"a" * 102_400), 500, None),
    "U04 two lengths": (lambda: with_raw_header(b"content-length", b"4"), 500, None),
    "U04 two lengths of a stream": (
        lambda: with_raw_header(b"content-length", b"1", streamed(b"a", content_length="1")),
        500,
        None,
    ),
    "U04 length that is none": (lambda: streamed(b"a", content_length="one"), 500, None),
    "U05 wrong length": (lambda: Response(b"body", headers={"content-length": "9"}), 500, None),
    "U05 stream longer than declared": (lambda: streamed(b"ab", b"cd", content_length="3"), 200, b"abc"),
    "U05 stream shorter than declared": (lambda: streamed(b"ab", content_length="3"), CUT, b"ab"),
    "U05 stream that is empty": (lambda: streamed(content_length="3"), CUT, b""),
    "yields numbers": (lambda: (n for n in (1, 2)), 200, b"1\n2\n"),
    "yields what cannot be encoded": (lambda: (item for item in (object(),)), 500, None),
    "yields it later": (lambda: (item for item in ("a", object())), CUT, b"a"),
    "yields it asynchronously": (lambda: parts(object()), 500, None),
    "yields it asynchronously later": (lambda: parts("a", object()), CUT, b"a"),
    "streams numbers": (lambda: streamed(1), 500, None),
    "streams them later": (lambda: streamed(b"a", 1), CUT, b"a"),
    "streams them asynchronously": (lambda: StreamingResponse(parts(1)), 500, None),
    "yields None": (lambda: (item for item in (None, 1)), 200, b"null\n1\n"),
    "yields nothing": (lambda: (item for item in ()), 200, b""),
    "U10 missing file": (lambda: FileResponse("/nowhere/at/all"), 500, None),
    "U10 directory": (lambda: FileResponse("/"), 500, None),
    "U10 task that fails": (lambda: Response(b"a", background=BackgroundTask(raising, ValueError())), 200, b"a"),
    "U10 script": (lambda: RedirectResponse("javascript:alert(1)", 302), 302, b""),
    "H27 204 with a body": (lambda: Response(b"body", 204), 204, b""),
    "H27 304 with a body": (lambda: Response(b"body", 304), 304, b""),
    "H27 204 with a stream": (lambda: streamed(b"body", status=204), 204, b""),
    "H27 304 with a stream": (lambda: streamed(b"body", status=304), 304, b""),
    "H27 204 with a length": (lambda: streamed(b"body", status=204, content_length="4"), 204, b""),
}


def odd(request: Any) -> Any:
    """Return what the query names."""
    return ODD[request.query_params["name"]][0]()


async def odd_async(request: Any) -> Any:
    """Return what the query names."""
    return ODD[request.query_params["name"]][0]()


@dataclass(frozen=True)
class Got:
    """What came back, read by a strict client.

    Attributes:
        status: `CUT` if the answer was not whole.
        headers: Of the answer.
        body: What came of it.
        more: What came after the answer.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    more: bytes


def get(http: httpx.Client, route: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Got:
    """Ask on a connection of one's own, and read until it ends."""
    where = urlsplit(str(http.base_url))
    client = h11.Connection(h11.CLIENT)
    named = [("host", "127.0.0.1"), *(headers or {}).items()]
    asked = client.send(h11.Request(method=method, target=route, headers=[*named, ("connection", "close")]))
    with socket.create_connection((where.hostname or "", where.port or 80), timeout=30) as connection:
        connection.sendall(asked or b"")
        client.send(h11.EndOfMessage())
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                client.receive_data(data)
    client.receive_data(b"")
    return _read(client)


def _read(client: h11.Connection) -> Got:
    status, headers, body = CUT, {}, b""
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.InformationalResponse | h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.ConnectionClosed):
                return Got(status if status < 200 else CUT, headers, body, b"")
    except h11.RemoteProtocolError:
        return Got(status if status < 200 and status != CUT else CUT, headers, body, b"")
    return Got(status, headers, body, client.trailing_data[0])


def check(got: Got, status: int, body: bytes | None) -> None:
    """Assert that the answer is that one, and says nothing of the inside."""
    assert (got.status, got.more) == (status, b"")
    assert "x-injected" not in got.headers
    if status == 500:
        assert got.headers["content-type"] == "application/problem+json"
        assert SECRET.encode() not in got.body
        assert b"Error" not in got.body.replace(b"Internal Server Error", b"")
    if body is not None:
        assert got.body == body


@pytest.fixture(scope="module", params=[odd, odd_async], ids=["def", "async def"])
def returns(request: pytest.FixtureRequest, module_serving: Serving) -> Served:
    """A backend that returns any of the odd ones."""
    return module_serving(request.param)


@RAY_ONCE
@pytest.mark.parametrize("name", ODD)
def test_an_odd_result_has_one_outcome(returns: Served, http: httpx.Client, name: str) -> None:
    """A problem while nothing is out, a visible break after that; the next request is unaffected."""
    _, status, body = ODD[name]
    check(get(http, httpx.URL(returns.route, params={"name": name}).raw_path.decode()), status, body)
    assert get(http, f"{returns.route}?name=yields%20nothing").status == 200


@RAY_ONCE
@pytest.mark.parametrize("name", ["U03 status 123", "H27 204 with a body", "H27 304 with a body", "yields numbers"])
def test_head_never_has_a_body(returns: Served, http: httpx.Client, name: str) -> None:
    """H27: whatever user code sends."""
    got = get(http, httpx.URL(returns.route, params={"name": name}).raw_path.decode(), "HEAD")
    check(got, ODD[name][1], b"")


@pytest.fixture(scope="module")
def raisers(module_serving: Serving) -> dict[str, Served]:
    """A backend of each form that raises."""
    return {name: module_serving(code) for name, code in FORMS.items()}


@RAY_ONCE
@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_raised_before_anything_is_out_is_a_500(
    raisers: dict[str, Served], http: httpx.Client, form: str, error: str
) -> None:
    """U07: whatever it is, from wherever; the replica lives."""
    check(get(http, f"{raisers[form].route}?error={error}&parts=0"), 500, None)


@RAY_ONCE
@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("raise")])
def test_what_is_raised_later_cuts_the_answer(
    raisers: dict[str, Served], http: httpx.Client, form: str, error: str
) -> None:
    """U07: what was yielded has arrived, and the end is missing."""
    check(get(http, f"{raisers[form].route}?error={error}&parts=2"), CUT, b"partpart")


def test_many_ranges_of_a_file_cost_nothing(serving: Serving, http: httpx.Client, tmp_path: Path) -> None:
    """D12: 10,000 of them are not answered one by one."""
    (tmp_path / "file").write_bytes(b"x" * 30_000)
    file = str(tmp_path / "file")
    served = serving(lambda request: FileResponse(file))
    ranges = ",".join(f"{n}-" for n in range(10_000))
    got = get(http, served.route, headers={"range": f"bytes={ranges}"})
    assert got.status in (200, 206, 400, 416)
    assert len(got.body) <= 30_000
    assert get(http, served.route, headers={"range": "bytes=1-3"}).body == b"xxx"


def generator(request: Any) -> Any:
    """Return a generator, made elsewhere."""
    return (n for n in range(3))


async def generator_async(request: Any) -> Any:
    """The same."""
    return (n for n in range(3))


@RAY_ONCE
@pytest.mark.parametrize("code", [generator, generator_async], ids=["def", "async def"])
def test_a_generator_that_is_returned_is_iterated_for_python_callers_too(serving: Serving, code: Any) -> None:
    """Whoever made it."""
    handle = serving(code).handle
    assert handle.call() == [0, 1, 2]
    assert list(handle.stream()) == [0, 1, 2]


async def endless(closed: Callable[[], None]) -> AsyncIterator[bytes]:
    """Yield for ever, and say when closed."""
    try:
        while True:
            yield b"x" * 65536
    finally:
        closed()


def endless_sync(closed: Callable[[], None]) -> Iterator[bytes]:
    """Yield for ever, and say when closed."""
    try:
        while True:
            yield b"x" * 65536
    finally:
        closed()


ENDLESS: Mapping[str, Callable[[Callable[[], None]], Any]] = {
    "asynchronous": endless,
    "synchronous": endless_sync,
    "asynchronous response": lambda closed: StreamingResponse(endless(closed)),
    "synchronous response": lambda closed: StreamingResponse(endless_sync(closed)),
}


@RAY_ONCE
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_stream_without_an_end_is_closed_when_its_client_leaves(
    serving: Serving, http: httpx.Client, tmp_path: Path, kind: str
) -> None:
    """S09: its `finally` runs, and the slot is free."""
    kept = []  # so that no garbage collector closes it

    def backend(request: Any) -> Any:
        if request.method == "POST":
            return "free"
        kept.append(ENDLESS[kind]((tmp_path / "closed").touch))
        return kept[-1]

    served = serving(backend, config={"max_concurrent_queries": 1})
    with http.stream("GET", served.route) as answer:
        assert next(answer.iter_raw())
    wait_until((tmp_path / "closed").exists)
    assert http.post(served.route).text == "free"
