"""Django: what a forwarded view does with requests, answers and errors; `bridge_view` and `abridge_view` alike."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from django.core.exceptions import BadRequest, PermissionDenied
from django.core.handlers.asgi import ASGIHandler
from django.http import Http404, HttpRequest
from django.http.request import RawPostDataException
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory, override_settings

import serve_bridge as serve
from serve_bridge.adapters.django import abridge_view, bridge_view, forward_failed, forwarded, get_handle
from serve_bridge.errors import BackendError
from tests.adapters.support.django_site import HALF_PARSED, Recording, page, site

Get = Callable[..., Any]
CHUNKS = "".join(f"{number}\n" * 50_000 for number in range(3))


@pytest.fixture(autouse=True, scope="module")
def running(engine: serve.Client) -> Iterator[None]:
    """The site."""
    with site(engine):
        yield


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest) -> Get:
    """Asks a sync view by the test client, or an async one by the asynchronous test client."""
    if request.param == "sync":
        return lambda path, **options: Client(raise_request_exception=False).get(path, **options)

    def get(path: str, headers: Mapping[str, str] | None = None, **options: Any) -> Any:
        # Not as `headers`: before Django 5.2.13 the client then spells their names with underscores.
        given = {**(headers or {}), **options}
        return asyncio.run(AsyncClient(raise_request_exception=False).get(f"/async{path}", **given))

    return get


def test_the_request_arrives(get: Get) -> None:
    """With its query as it was."""
    seen = get("/echo/?x=1&x=%C3%A9", headers={"x-mine": "yes"}).json()
    assert seen["query"] == [["x", "1"], ["x", "é"]]
    assert (seen["headers"]["x-mine"], seen["headers"]["host"]) == ("yes", "testserver")


def test_converted_path_parameters_keep_their_types() -> None:
    """A slug is text."""
    key = uuid.uuid4()
    seen = Client().get(f"/typed/7/{key}/some-word/").json()
    assert seen["params"] == {"number": ["int", "7"], "key": ["UUID", str(key)], "word": ["str", "some-word"]}


def test_context_comes_from_the_request_by_name(get: Get) -> None:
    """A first part that is not there is an error, so that no request looks anonymous by mistake."""
    assert get("/state/").status_code == 500


def test_context_goes_along() -> None:
    """What is missing deeper is None."""

    class User:
        name = "ada"

    request = RequestFactory().get("/")
    request.tests_user = User()
    view = bridge_view("state", context={"user": "tests_user.name", "missing": "tests_user.nothing"})
    assert b'"user":"ada"' in view(request).content
    request = AsyncRequestFactory().get("/")
    request.tests_user = User()
    view = abridge_view("state", context=lambda request: {"user": request.tests_user.name.upper()})
    assert b'"user":"ADA"' in asyncio.run(view(request)).content


def test_context_may_need_the_database_under_asgi() -> None:
    """Then it is found in a thread, as Django asks for."""
    from django.utils.asyncio import async_unsafe

    @async_unsafe
    def query() -> str:
        return "found"

    view = abridge_view("state", context=lambda request: {"user": query()})
    assert b'"user":"found"' in asyncio.run(view(AsyncRequestFactory().get("/"))).content


def test_a_host_that_is_not_allowed_is_a_400(get: Get) -> None:
    """Whether or not a middleware looks at it."""
    assert get("/echo/", headers={"host": "evil.example"}).content == b"the project's 400"


def test_the_public_host_is_what_the_settings_say() -> None:
    """A backend that builds a URL builds one that its client can use."""
    with override_settings(USE_X_FORWARDED_HOST=True, ALLOWED_HOSTS=["shop.example"]):
        seen = Client().get("/echo/", headers={"x-forwarded-host": "shop.example"}).json()
    assert seen["headers"]["host"] == "shop.example"


def test_what_user_code_raises_reaches_handler500(get: Get) -> None:
    """The page is the project's, with the request's id."""
    answer = get("/failing/", headers={"x-request-id": "mine-1"})
    assert (answer.status_code, answer.content) == (500, b"the project's 500")
    assert answer["x-request-id"] == "mine-1"


def test_what_user_code_raises_is_raised_in_the_view() -> None:
    """With the replica's traceback, for whoever reports errors."""
    with pytest.raises(BackendError, match="RuntimeError") as caught:
        Client().get("/failing/")
    assert 'raise RuntimeError("secret")' in caught.value.remote_traceback


def test_a_method_that_is_not_there_reaches_handler404(get: Get) -> None:
    """The page may show the request's id."""
    answer = get("/unexposed/", headers={"x-request-id": "mine-2"})
    assert (answer.status_code, answer.content) == (404, b"the project's 404 for mine-2")


def test_a_bad_request_reaches_handler400(get: Get) -> None:
    """An empty control header means nothing."""
    assert get("/echo/", headers={"x-serve-shard-key": ""}).content == b"the project's 400"


def test_the_exceptions_are_djangos_own() -> None:
    """As a view raises them."""
    with pytest.raises(Http404):
        bridge_view("counter", method_name="missing")(RequestFactory().get("/"))
    with pytest.raises(BadRequest):
        bridge_view("echo")(RequestFactory().get("/", headers={"x-serve-shard-key": ""}))


def test_no_instance_is_a_503(get: Get, tmp_path: Any) -> None:
    """A problem, with a time to come back and the request's id; changed settings hold at once."""
    with override_settings(SERVE_BRIDGE={"ADDRESS": tmp_path / "none.json"}):
        answer = get("/echo/")
    assert (answer.status_code, answer["retry-after"]) == (503, "1")
    assert answer.json()["request_id"] == answer["x-request-id"]


def test_repeated_headers_and_cookies_stay_so(get: Get) -> None:
    """Even cookies that Python cannot parse, or only in part: a session keeps its HttpOnly and Secure."""
    answer = get("/repeated/")
    sent = [(name.lower(), value) for name, value in answer.items()]
    assert [value for name, value in sent if name == "link"] == ["</a>; rel=a", "</b>; rel=b"]
    cookies = [morsel.OutputString() for morsel in answer.cookies.values()]
    cookies += [value for name, value in sent if name == "set-cookie"]
    parsed = ("new=1; Path=/; Fresh; Partitioned", "one=1; Path=/a", "one=2; Path=/b")
    assert sorted(cookies) == sorted((*parsed, *HALF_PARSED))


def test_middleware_sees_repeated_headers_as_one() -> None:
    """And what it makes of them is what is sent."""
    answer = Client().get("/repeated/")
    assert answer["link"] == "</a>; rel=a, </b>; rel=b"
    answer["link"] = "</c>; rel=c"
    assert [value for name, value in answer.items() if name.lower() == "link"] == ["</c>; rel=c"]


def test_middleware_may_replace_the_body() -> None:
    """What the backend said of its length is then true no more."""
    answer = Client().get("/echo/")
    assert int(answer["content-length"]) == len(answer.content)
    answer.content = b"another"
    assert not answer.has_header("content-length")


def test_an_answer_is_streamed() -> None:
    """In order, while it comes."""
    answer = Client().get("/chunks/")
    assert (answer.streaming, answer.is_async) == (True, False)
    assert b"".join(answer).decode() == CHUNKS


def test_an_answer_is_streamed_under_asgi() -> None:
    """Asynchronously: Django would hold a blocking iterator until it has ended."""

    async def text() -> bytes:
        answer = await AsyncClient().get("/async/chunks/")
        assert (answer.streaming, answer.is_async) == (True, True)
        return b"".join([chunk async for chunk in answer])

    assert asyncio.run(text()).decode() == CHUNKS


def test_a_sync_view_streams_under_asgi() -> None:
    """Django would gather all of a blocking iterator first, and events have no end."""

    async def first() -> bytes:
        answer = await AsyncClient().get("/events/")
        assert answer.is_async
        chunk: bytes = await anext(aiter(answer))
        answer.close()
        return chunk

    assert asyncio.run(first()) == b"data: 0\n\n"


def test_an_async_view_streams_under_wsgi() -> None:
    """The loop that Django makes for it has ended when the answer is read."""
    answer = Client().get("/async/chunks/")
    assert not answer.is_async
    assert b"".join(answer).decode() == CHUNKS


def test_events_are_not_held_back_by_a_proxy() -> None:
    """Nginx buffers what does not say so."""
    answer = Client().get("/events/")
    assert (answer["content-type"].partition(";")[0], answer["x-accel-buffering"]) == ("text/event-stream", "no")
    assert next(iter(answer)) == b"data: 0\n\n"
    answer.close()


def test_a_client_that_leaves_ends_its_stream(engine: serve.Client) -> None:
    """Under ASGI, in the replica too."""

    async def leave() -> None:
        left = asyncio.Event()
        messages: list[Any] = [{"type": "http.request", "body": b""}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                left.set()

        scope = {"type": "http", "method": "GET", "path": "/async/events/", "query_string": b"", "headers": []}
        host = [(b"host", b"testserver")]
        await ASGIHandler()({**scope, "headers": host, "http_version": "1.1", "scheme": "http"}, receive, send)

    asyncio.run(asyncio.wait_for(leave(), 30))


def test_forwarded_is_sent(get: Get) -> None:
    """With what is known of the request."""
    receiver = Recording()
    forwarded.connect(receiver)
    try:
        get("/echo/", headers={"x-request-id": "mine-3"})
    finally:
        forwarded.disconnect(receiver)
    (told,) = receiver.told
    assert (told["endpoint"], told["status"], told["request_id"]) == ("echo", 200, "mine-3")
    assert told["request"].path.endswith("/echo/")


def test_forward_failed_is_sent(get: Get) -> None:
    """With the error; a receiver that fails does not matter."""
    receiver = Recording()

    def failing(**kwargs: Any) -> None:
        raise ValueError

    forward_failed.connect(failing)
    forward_failed.connect(receiver)
    try:
        get("/missing/")
    finally:
        forward_failed.disconnect(receiver)
        forward_failed.disconnect(failing)
    assert [(told["status"], type(told["error"]).__name__) for told in receiver.told] == [(503, "EndpointNotFound")]


@pytest.mark.parametrize(
    ("raised", "status"), [(ValueError("own"), 500), (PermissionDenied(), 403), (Http404(), 404), (BadRequest(), 400)]
)
@pytest.mark.parametrize("make", [bridge_view, abridge_view])
def test_forward_failed_is_sent_when_the_context_raises(make: Any, raised: Exception, status: int) -> None:
    """With the status of the answer and the id of the request, which error pages show."""

    def context(request: HttpRequest) -> dict[str, Any]:
        raise raised

    requests = AsyncRequestFactory() if make is abridge_view else RequestFactory()
    request = requests.get("/echo/", headers={"x-request-id": "mine-4"})
    receiver = Recording()
    forward_failed.connect(receiver)
    try:
        with pytest.raises(type(raised)):
            asyncio.run(awaited(make("echo", context=context)(request)))
    finally:
        forward_failed.disconnect(receiver)
    (told,) = receiver.told
    assert (told["endpoint"], told["status"], told["request_id"], told["error"]) == ("echo", status, "mine-4", raised)
    assert request.serve_bridge_request_id == "mine-4"


async def awaited(answer: Any) -> Any:
    """Return *answer* of a view, sync or async."""
    return await answer if inspect.isawaitable(answer) else answer


def test_forward_failed_is_sent_when_the_body_was_consumed() -> None:
    """By a view or middleware that has kept nothing of it."""
    request = RequestFactory().post("/echo/", data=b"body", content_type="text/plain")
    request.read(1)
    receiver = Recording()
    forward_failed.connect(receiver)
    try:
        with pytest.raises(RawPostDataException):
            bridge_view("echo")(request)
    finally:
        forward_failed.disconnect(receiver)
    assert [told["status"] for told in receiver.told] == [500]


def test_a_handle_works_in_a_view() -> None:
    """Under the settings' instance."""
    assert get_handle("counter").options(method_name="add").call(1, by="2") == {"sum": 3}


@pytest.mark.parametrize("make", [bridge_view, abridge_view])
def test_a_misspelt_option_is_an_error_where_it_is_written(make: Any) -> None:
    """With the nearest one."""
    with pytest.raises(TypeError, match="did you mean 'timeout_s'"):
        make("echo", timeout=3)


def test_the_projects_own_pages_are_untouched() -> None:
    """None has a request id."""
    answer = Client().get("/page/")
    assert (answer.content, answer.has_header("x-request-id")) == (page(None).content, False)
