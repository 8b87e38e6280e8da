"""`ServeRequest` reads like Starlette's request, around a Python value and around a forwarded web request."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route, Router

from serve_bridge.errors import SerializationError
from serve_bridge.request import body_channel
from serve_bridge.request.body_channel import PIECE_BYTES
from serve_bridge.request.frozen_request import FrozenRequest
from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.request.whole_body import cached_body


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the parts of a body."""
    for part in parts:
        yield part


async def collected(request: ServeRequest) -> list[bytes]:
    """Return all chunks of the request's stream."""
    return [chunk async for chunk in request.stream()]


def test_is_no_starlette_request() -> None:
    """`isinstance` tells a call from Python from one of the web."""
    assert not isinstance(ServeRequest(1), Request)


def test_data_is_the_object_itself() -> None:
    """Nothing copies or wraps what a handle passed."""
    value = object()
    assert ServeRequest(value).data is value


def test_method_is_get_by_default() -> None:
    """A handle call without options is a GET, and options change it."""
    assert ServeRequest().method == "GET"
    assert ServeRequest(method="POST").method == "POST"


def test_headers_are_case_insensitive() -> None:
    """Headers read as Starlette's."""
    assert ServeRequest(headers={"X-Tenant": "a"}).headers["x-tenant"] == "a"


def test_raw_headers_keep_duplicates_in_order() -> None:
    """A forwarded request loses no repeated header."""
    request = ServeRequest(headers=[(b"Accept", b"a"), (b"accept", b"b")])
    assert request.headers.getlist("accept") == ["a", "b"]


def test_changing_headers_later_has_no_effect() -> None:
    """The request keeps the headers of the moment it was made."""
    headers = {"a": "1"}
    request = ServeRequest(headers=headers)
    headers["a"] = "2"
    assert request.headers["a"] == "1"


def test_query_params_keep_python_types() -> None:
    """Keyword arguments of a call arrive as they are."""
    query = ServeRequest(kwargs={"a": "b", "n": 1, "none": None}).query_params
    assert (query["a"], query["n"], query["none"], query.get("x", 7)) == ("b", 1, None, 7)


def test_a_list_is_a_repeated_query_parameter() -> None:
    """`getlist` gives the items of a list, and the list itself stays as it was."""
    query = ServeRequest(kwargs={"a": [1, 2], "b": 3}).query_params
    assert query.getlist("a") == [1, 2]
    assert query["a"] == [1, 2]
    assert query.getlist("b") == [3]
    assert query.getlist("c") == []
    assert str(query) == "a=1&a=2&b=3"


def test_query_string_and_keywords_together() -> None:
    """A forwarded query is text, and keywords come after it."""
    query = ServeRequest(query_string=b"a=1&a=2", kwargs={"b": 3}, body=b"").query_params
    assert query.multi_items() == [("a", "1"), ("a", "2"), ("b", 3)]


@pytest.mark.parametrize("value", [{"a": 1}, [1], "text", 1, 1.5, True, None])
def test_json_of_a_value_is_the_value(value: Any) -> None:
    """What JSON knows comes back unchanged."""
    assert asyncio.run(ServeRequest(value).json()) is value


@pytest.mark.parametrize("value", [object(), b"{}", (1,), {1}, Decimal(1)])
def test_json_of_anything_else_names_the_type(value: Any) -> None:
    """What JSON does not know is an error that says what it was."""
    with pytest.raises(SerializationError, match=type(value).__name__):
        asyncio.run(ServeRequest(value).json())


def test_form_of_a_dict_is_the_dict() -> None:
    """A dict stands for a form, with `await` and with `async with`."""

    async def read() -> tuple[Any, Any]:
        request = ServeRequest({"a": "b"})
        async with request.form() as form:
            return form, await request.form()

    assert asyncio.run(read()) == ({"a": "b"}, {"a": "b"})


def test_form_of_anything_else_names_the_type() -> None:
    """Only a dict can stand for a form."""

    async def read() -> Any:
        return await ServeRequest([1]).form()

    with pytest.raises(SerializationError, match="list"):
        asyncio.run(read())


@pytest.mark.parametrize("value", ["long string", b"bytes", None, 5])
def test_body_of_a_value_is_the_value(value: Any) -> None:
    """`body()` gives what was passed: a str stays one, None stands for nothing."""
    assert asyncio.run(ServeRequest(value).body()) is value


@pytest.mark.parametrize(("value", "expected"), [("é", [b"\xc3\xa9", b""]), (b"x", [b"x", b""]), (None, [b""])])
def test_stream_of_a_value(value: Any, expected: list[bytes]) -> None:
    """Text and bytes stream as bytes, with Starlette's empty chunk at the end."""
    assert asyncio.run(collected(ServeRequest(value))) == expected


def test_stream_of_an_object_names_the_type() -> None:
    """What has no bytes cannot be streamed."""
    with pytest.raises(SerializationError, match="dict"):
        asyncio.run(collected(ServeRequest({})))


def test_forwarded_json_is_parsed() -> None:
    """A forwarded body is parsed, not handed through."""
    assert asyncio.run(ServeRequest(body=b'{"a": [1]}').json()) == {"a": [1]}


def test_forwarded_json_that_is_none_raises_value_error() -> None:
    """Bad JSON fails as it does in Starlette."""
    with pytest.raises(ValueError, match="Expecting"):
        asyncio.run(ServeRequest(body=b"{").json())


def test_empty_forwarded_body_is_bytes() -> None:
    """A web request without a body has an empty one."""
    assert asyncio.run(ServeRequest(body=b"").body()) == b""


def test_forwarded_form_is_parsed() -> None:
    """A form arrives as Starlette parses it."""

    async def read() -> Any:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return await ServeRequest(headers=headers, body=chunks(b"a=b&", b"a=c")).form()

    assert asyncio.run(read()).getlist("a") == ["b", "c"]


def test_form_limits_answer_400() -> None:
    """Too many fields are the client's mistake."""

    async def read() -> Any:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return await ServeRequest(headers=headers, body=b"a=1&b=2&c=3").form(max_fields=2)

    with pytest.raises(HTTPException) as caught:
        asyncio.run(read())
    assert caught.value.status_code == 400


def test_data_of_a_streaming_body_appears_once_it_is_read() -> None:
    """`data` is None until the body is here, and the body can be read twice."""

    async def read() -> list[Any]:
        request = ServeRequest(body=chunks(b"a", b"b"))
        return [request.data, await request.body(), await request.body(), request.data]

    assert asyncio.run(read()) == [None, b"ab", b"ab", b"ab"]


def test_forwarded_stream_can_be_read_once() -> None:
    """Chunks arrive as they come; a second stream is Starlette's error."""

    async def read() -> list[bytes]:
        request = ServeRequest(body=chunks(b"a", b"b"))
        first = await collected(request)
        with pytest.raises(RuntimeError, match="Stream consumed"):
            await request.body()
        return first

    assert asyncio.run(read()) == [b"a", b"b", b""]


def test_url_of_a_forwarded_request() -> None:
    """The URL is the one the client asked for."""
    request = ServeRequest(
        path="/app/x",
        root_path="/app",
        query_string=b"q=1",
        scheme="https",
        headers={"Host": "a.test"},
        body=b"",
    )
    assert str(request.url) == "https://a.test/app/x?q=1"


def test_url_of_a_handle_call_is_its_path() -> None:
    """A call from Python has no host."""
    assert str(ServeRequest(1).url) == "/"


def test_cookies_client_path_params_and_state() -> None:
    """The rest of a web request is there too."""
    request = ServeRequest(
        headers={"cookie": "a=1; b=2"},
        client=("::1", 5),
        path_params={"id": 3},
        state={"user": "u"},
        body=b"",
    )
    request.state.seen = True
    assert request.cookies == {"a": "1", "b": "2"}
    assert request.client == ("::1", 5)
    assert request.path_params == {"id": 3}
    assert (request.state.user, request.state.seen) == ("u", True)


def test_a_request_around_a_value_pickles() -> None:
    """It travels to another replica with everything the caller set, after it was read too."""
    request = ServeRequest({"a": 1}, kwargs={"k": 2}, method="PUT", headers={"h": "v"}, state={"s": 1})
    assert request.headers["h"] == "v"
    request.state.t = 2
    copy = pickle.loads(pickle.dumps(request))
    assert (copy.data, copy.query_params["k"], copy.method, copy.headers["h"]) == ({"a": 1}, 2, "PUT", "v")
    assert (copy.state.s, copy.state.t) == (1, 2)


def test_an_unread_stream_does_not_pickle() -> None:
    """The error says to read the body before."""
    with pytest.raises(SerializationError, match=r"await request\.body\(\)"):
        pickle.dumps(ServeRequest(body=chunks(b"a")))


def test_a_streamed_body_pickles_once_read() -> None:
    """A body that was read travels as bytes."""

    async def read() -> ServeRequest:
        request = ServeRequest(body=chunks(b"a", b"b"))
        await request.body()
        return request

    copy = pickle.loads(pickle.dumps(asyncio.run(read())))
    assert asyncio.run(copy.body()) == b"ab"


def test_repr_shows_no_value() -> None:
    """Logs may hold a request's repr, so no argument is in it."""
    shown = repr(ServeRequest("secret", kwargs={"k": "secret"}, headers={"authorization": "secret"}))
    assert shown == "<ServeRequest GET / with str>"


# --- a Starlette request that travels


def web_request(
    headers: dict[str, str] | None = None, body: bytes = b"", *, http_version: str = "1.1", **scope: Any
) -> Request:
    """Return a request as a server hands it to an application."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    defaults = {
        "type": "http",
        "http_version": http_version,
        "method": "POST",
        "scheme": "https",
        "path": "/app/items/3",
        "root_path": "/app",
        "query_string": b"q=1&q=2",
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("10.0.0.1", 5),
        "server": ("a.test", 443),
        "path_params": {"id": 3},
        "app": object(),
        "router": lambda: None,
        "session": {"user": 1},
    }
    return Request({**defaults, **scope}, receive)


def travelled(request: Request, body: bytes = b"") -> Request:
    """Return the request as it arrives in another process."""
    frozen: FrozenRequest = pickle.loads(pickle.dumps(FrozenRequest.of(request, body)))
    return frozen.thaw("id")


def test_a_travelled_request_is_starlettes_own() -> None:
    """User code tells it from a call by its type, and reads what the client sent."""
    request = travelled(web_request({"host": "b.test", "cookie": "a=1", "x-tenant": "t"}))
    assert isinstance(request, Request)
    assert (request.method, str(request.url)) == ("POST", "https://b.test/app/items/3?q=1&q=2")
    assert (request.headers["X-Tenant"], request.cookies) == ("t", {"a": "1"})
    assert (request.path_params, request.query_params.getlist("q")) == ({"id": 3}, ["1", "2"])
    assert request.client == ("10.0.0.1", 5)


def test_a_travelled_body_reads_in_every_way() -> None:
    """Whole, in chunks, as JSON and as a form."""

    async def read() -> list[Any]:
        form = web_request({"content-type": "application/x-www-form-urlencoded"})
        return [
            await travelled(web_request(), b"abc").body(),
            [chunk async for chunk in travelled(web_request(), b"abc").stream()],
            await travelled(web_request(), b"[1]").json(),
            (await travelled(form, b"a=b").form())["a"],
        ]

    assert asyncio.run(read()) == [b"abc", [b"abc", b""], [1], "b"]


def test_a_travelled_malformed_form_is_the_clients_mistake() -> None:
    """It answers 400, as it does inside the application."""
    request = travelled(web_request({"content-type": "multipart/form-data"}), b"x")
    with pytest.raises(HTTPException) as caught:
        asyncio.run(_form_of(request))
    assert caught.value.status_code == 400


async def _form_of(request: Request) -> Any:
    return await request.form()


def test_only_plain_state_travels() -> None:
    """A pool of connections in the state stays where it is, and stops nothing else."""
    loop: list[Any] = []
    loop.append(loop)
    state = {"user": {"id": 1, "roles": ("a",)}, "pool": object(), "mixed": [1, object()], "loop": loop}
    request = travelled(web_request(state=state))
    assert request.scope["state"] == {"user": {"id": 1, "roles": ("a",)}}
    assert request.state.user["id"] == 1


def test_names_of_headers_travel_in_lower_case() -> None:
    """ASGI allows others, which Starlette would not find; there is one id."""
    sent = web_request()
    sent.scope["headers"] = [(b"X-Tenant", b"t"), (b"X-Request-Id", b"mine")]
    frozen = FrozenRequest.of(sent, b"")
    assert frozen.request_id == "mine"
    assert frozen.thaw("id").headers.items() == [("x-tenant", "t"), ("x-request-id", "id")]


def test_a_request_without_headers_and_query_travels() -> None:
    """As tests make it."""
    request = travelled(Request({"type": "http", "method": "GET", "path": "/"}))
    assert (request.headers.items(), request.query_params.multi_items()) == ([("x-request-id", "id")], [])


def test_each_thawed_request_has_its_own_state() -> None:
    """What one attempt keeps in its request, the next does not see."""
    frozen = FrozenRequest.of(web_request(state={"a": 1}), b"")
    frozen.thaw("id").state.a = 2
    assert frozen.thaw("id").state.a == 1


def test_the_application_and_its_session_stay_behind() -> None:
    """Changes to a session elsewhere would be lost, so Starlette says that there is none."""
    request = travelled(web_request())
    with pytest.raises(AssertionError, match="SessionMiddleware"):
        _ = request.session
    assert "router" not in request.scope


def test_repr_of_a_frozen_request_shows_no_value() -> None:
    """Logs may hold it, so neither headers nor body are in it."""
    frozen = FrozenRequest.of(web_request({"authorization": "secret"}), b"secret")
    assert repr(frozen) == "<FrozenRequest POST /app/items/3 with 6 bytes>"


def test_the_body_of_a_read_request_is_at_hand() -> None:
    """Once read, it takes no waiting."""

    async def read() -> list[Any]:
        request = web_request({"content-length": "3"}, b"abc")
        return [cached_body(request), await request.body(), cached_body(request)]

    assert asyncio.run(read()) == [None, b"abc", b"abc"]


@pytest.mark.parametrize(
    ("headers", "version", "expected"),
    [
        ({}, "1.1", b""),
        ({"content-length": "0"}, "1.0", b""),
        ({"content-length": "1"}, "1.1", None),
        ({"transfer-encoding": "chunked"}, "1.1", None),
        ({"content-length": "0", "transfer-encoding": "chunked"}, "1.1", None),
        ({}, "2", None),
    ],
)
def test_headers_tell_whether_a_body_comes(headers: dict[str, str], version: str, expected: bytes | None) -> None:
    """In HTTP/1 a request without these headers has no body; HTTP/2 needs none to have one."""
    assert cached_body(web_request(headers, http_version=version)) == expected


# as Starlette's request, name by name

SCOPE: dict[str, Any] = {
    "type": "http",
    "app": None,
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "scheme": "https",
    "method": "POST",
    "path": "/root/items/7",
    "raw_path": b"/root/items/7",
    "root_path": "/root",
    "query_string": b"a=1&a=2",
    "headers": [(b"host", b"shop.example"), (b"cookie", b"c=1"), (b"content-type", b"application/json")],
    "client": ("10.0.0.1", 5),
    "server": ("shop.example", 443),
    "path_params": {"item": 7},
    "state": {"user": "ada"},
    "extensions": {},
}
BODY = b'{"price": 2}'
PUBLIC = sorted(name for name in dir(Request) if not name.startswith("_"))
KEPT_BY_THE_APPLICATION = ("app", "auth", "session", "user")
AWAITED = ("body", "json", "is_disconnected", "close")
CALLED = (
    "form",
    "get",
    "items",
    "keys",
    "receive",
    "send_early_hints",
    "send_push_promise",
    "stream",
    "url_for",
    "values",
)


def both() -> tuple[ServeRequest, Request]:
    """Return a forwarded request, and what Starlette makes of the same."""

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY, "more_body": False}

    scope = {**SCOPE, "state": dict(SCOPE["state"])}
    return ServeRequest.of_scope({**scope, "state": dict(SCOPE["state"])}, BODY), Request(scope, receive)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in (*KEPT_BY_THE_APPLICATION, *AWAITED, *CALLED)])
def test_a_forwarded_request_has_every_attribute_of_starlettes(name: str) -> None:
    """With the same value."""
    own, starlettes = both()
    if name == "state":
        assert own.state.user == starlettes.state.user
    elif name == "query_params":
        assert own.query_params.multi_items() == starlettes.query_params.multi_items()
    else:
        assert getattr(own, name) == getattr(starlettes, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_of_starlettes_request_is_known(name: str) -> None:
    """Of the installed version."""
    assert hasattr(ServeRequest, name)


@pytest.mark.parametrize("name", AWAITED)
def test_a_forwarded_request_answers_as_starlettes(name: str) -> None:
    """Body, JSON, and whether its client has left."""
    own, starlettes = both()

    async def told() -> list[Any]:
        if name == "is_disconnected":
            await starlettes.body()
        return [await getattr(request, name)() for request in (own, starlettes)]

    first, second = asyncio.run(told())
    assert first == second


def test_a_request_is_a_mapping_of_its_scope() -> None:
    """As Starlette's is; two requests are never equal."""
    own, starlettes = both()
    assert dict(own) == dict(starlettes)
    assert (own["path"], own.get("nothing"), "method" in own, len(own)) == ("/root/items/7", None, True, len(SCOPE))
    assert own != both()[0]
    assert ServeRequest("x").scope["method"] == ServeRequest("x")["method"] == "GET"


def test_the_routes_stay_with_the_application() -> None:
    """The error says what to do; a router that user code has put there is used."""
    own = both()[0]
    with pytest.raises(RuntimeError, match="base_url"):
        own.url_for("item", item=7)
    own.scope["router"] = Router([Route("/items/{item}", lambda request: None, name="item")])
    assert str(own.url_for("item", item=7)) == "https://shop.example/root/items/7"


@pytest.mark.parametrize(
    ("request_", "body"),
    [(ServeRequest.of_scope(dict(SCOPE), BODY), BODY), (ServeRequest("text"), b"text"), (ServeRequest(), b"")],
    ids=["forwarded", "call", "empty"],
)
def test_receive_gives_the_body(request_: ServeRequest, body: bytes) -> None:
    """As an ASGI application reads it."""
    message = asyncio.run(request_.receive())  # type: ignore[arg-type]
    assert (message["type"], message["body"]) == ("http.request", body)


def test_receive_has_no_form_of_other_values() -> None:
    """The error says where the value is."""
    with pytest.raises(SerializationError, match=r"request\.data"):
        _ = ServeRequest({"a": 1}).receive


class Leaving:
    """A caller who leaves when told."""

    def __init__(self) -> None:
        self.there = True
        self.left = asyncio.Event()

    def may_send(self) -> bool:
        """Whether the caller is there."""
        return self.there

    async def gone(self) -> None:
        """Wait until the caller is not."""
        await self.left.wait()


@pytest.mark.parametrize("forwarded", [True, False])
def test_a_request_hears_that_its_caller_has_left(forwarded: bool) -> None:
    """By `is_disconnected`, and at the end of `receive`."""

    async def told() -> list[Any]:
        caller = Leaving()
        request = ServeRequest.of_scope(dict(SCOPE), BODY, caller) if forwarded else ServeRequest(BODY, caller=caller)
        receive = request.receive
        before = await request.is_disconnected(), (await receive())["body"]
        caller.there = False
        caller.left.set()
        return [*before, await request.is_disconnected(), (await receive())["type"]]

    assert asyncio.run(told()) == [False, BODY, True, "http.disconnect"]


def test_the_caller_does_not_travel() -> None:
    """A copy in another process has none who could leave."""
    request = ServeRequest("x", caller=Leaving())
    assert asyncio.run(pickle.loads(pickle.dumps(request)).is_disconnected()) is False


@pytest.mark.parametrize("name", KEPT_BY_THE_APPLICATION)
@pytest.mark.parametrize(
    "request_", [ServeRequest(1), ServeRequest.of_scope(dict(SCOPE), b"")], ids=["call", "forwarded"]
)
def test_what_stays_with_the_application_says_so(request_: ServeRequest, name: str) -> None:
    """The error names the attribute and the way out."""
    with pytest.raises(AttributeError, match=rf"request\.{name} .*(context|class)"):
        getattr(request_, name)
    assert getattr(request_, name, "default") == "default"


LONG_FORM = b"a=%s&b=%s" % (b"x" * 500_000, b"y" * 500_000)
FORM_TYPE = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("how", ["whole", "read before", "travelled"])
def test_the_loop_runs_while_a_long_form_is_parsed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette parses each piece in one step, so the body reaches it in pieces, and other work runs between them."""
    monkeypatch.setattr(body_channel, "TURN_S", 0)
    turns = 0

    def next_turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(next_turn)

    async def read() -> Any:
        request: Any = ServeRequest(body=LONG_FORM, headers=FORM_TYPE)
        if how == "read before":
            await request.body()
        elif how == "travelled":
            request = travelled(web_request(headers=FORM_TYPE), LONG_FORM)
        next_turn()
        form = await request.form()
        assert form is await request.form()
        return form

    form = asyncio.run(read())
    assert [len(form["a"]), len(form["b"])] == [500_000, 500_000]
    assert turns >= len(LONG_FORM) // PIECE_BYTES


def test_a_long_body_of_a_travelled_request_can_be_read_again() -> None:
    """As a short one, which is one message each time."""

    async def read() -> list[bytes]:
        request = travelled(web_request(), LONG_FORM)
        return [await Request(request.scope, request.receive).body() for _ in range(2)]

    assert asyncio.run(read()) == [LONG_FORM, LONG_FORM]
