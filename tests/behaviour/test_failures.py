"""What a caller learns of an exception of user code that cannot be rebuilt in its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

import serve_bridge as serve
from serve_bridge.adapters import Bridge, ForwardedRoute
from serve_bridge.errors import BackendError
from tests.support.serving import Served, Serving


class Item(BaseModel):
    """Has two fields that may be wrong."""

    count: int
    price: float


class Stubborn(Exception):
    """Has no pickled form; *first* and *second* are its lines."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}\n{second}")

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Ending(Exception):
    """Would end the process of the replica, if its methods could."""

    def __str__(self) -> str:
        raise SystemExit(3)

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class StubbornGroup(ExceptionGroup[Exception]):
    """A group without a pickled form."""

    def __reduce__(self) -> Any:
        raise TypeError("not me")


def raise_one(kind: str) -> None:
    """Raise the exception of *kind*."""
    if kind == "pydantic":
        Item.model_validate({"count": "many", "price": "high"})
    if kind == "group":
        raise StubbornGroup("two: failed", [ValueError("one: bad"), Stubborn("KeyError: no", "two")])
    if kind == "ending":
        raise Ending
    error = Stubborn("first: line", "SystemExit: as the user likes")
    if kind == "notes":
        error.add_note("KeyError: a note\nValueError: another")
    raise error


def facts_of(kind: str) -> tuple[str, str]:
    """Return type and text of the exception of *kind*."""
    try:
        raise_one(kind)
    except Exception as error:
        return type(error).__qualname__, str(error)
    raise AssertionError("nothing was raised")


def by_call(served: Served, client: serve.Client, kind: str) -> Any:
    """Call the backend."""
    return served.handle.call(kind)


def by_stream(served: Served, client: serve.Client, kind: str) -> Any:
    """Iterate what the backend yields."""
    return list(served.handle.options(method_name="items").stream(kind))


def by_request(served: Served, client: serve.Client, kind: str) -> Any:
    """Forward a request, as an adapter does."""
    bridge = Bridge(client.address)
    try:
        headers = [(b"host", b"h"), (b"content-length", b"%d" % len(kind))]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
        scope |= {"scheme": "http", "http_version": "1.1"}
        outcome = bridge.ask(ForwardedRoute(served.name), scope, {}, kind.encode(), None)
    finally:
        bridge.close()
    assert outcome.error is not None
    raise outcome.error


class Raising:
    """Raises what its caller names."""

    async def __call__(self, request: Any) -> None:
        """Raise."""
        data = await request.body()
        raise_one(data if isinstance(data, str) else data.decode())

    def items(self, request: Any) -> Iterator[int]:
        """Raise after one item."""
        yield 1
        raise_one(request.data)


@pytest.fixture(scope="module")
def raising(module_serving: Serving) -> Served:
    """A backend that raises."""
    return module_serving(Raising)


@pytest.mark.parametrize("kind", ["lines", "notes", "group", "pydantic"])
@pytest.mark.parametrize("way", [by_call, by_stream, by_request])
def test_type_and_text_of_an_exception_of_several_lines_arrive(
    raising: Served, client: serve.Client, way: Callable[..., Any], kind: str
) -> None:
    """Text of the user cannot choose the type, and no line of it is lost."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its facts are compared
        way(raising, client, kind)
    error = caught.value
    if kind == "pydantic" and way is not by_request:  # it can be rebuilt, so it comes as itself
        assert (type(error).__qualname__, str(error)) == facts_of(kind)
        return
    assert isinstance(error, BackendError)
    assert (error.type_name, error.text) == facts_of(kind)
    assert "in raise_one" in error.remote_traceback


@pytest.mark.parametrize("way", [by_call, by_stream, by_request])
def test_an_exception_that_exits_by_its_methods_is_only_an_error(
    raising: Served, client: serve.Client, way: Callable[..., Any]
) -> None:
    """The replica serves on."""
    with pytest.raises(BackendError) as caught:
        way(raising, client, "ending")
    assert (caught.value.type_name, caught.value.text) == ("Ending", "(its __str__ raises)")
    with pytest.raises(BackendError, match="Stubborn"):
        way(raising, client, "lines")


async def nested(request: Any) -> Any:
    """Call an endpoint that does not exist."""
    return await serve.connect().get_handle("nowhere", missing_ok=True).acall()


def test_a_nested_call_of_a_missing_endpoint_is_a_503(serving: Serving, http: httpx.Client) -> None:
    """The client's URL exists, so a 404, which caches keep, would be wrong; the client may try again soon."""
    answer = http.get(serving(nested).route)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
