"""Typed handles: what their calls send and return. `tests/typing` holds what type checkers know of them."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import serve_bridge as serve
from tests.behaviour.support import backends, typed_backends
from tests.behaviour.support.typed_backends import Shop, doubled, length, ping, words


@pytest.fixture(scope="module")
def deployed(client: serve.Client) -> serve.Client:
    """The shared instance, which runs the declared backends."""
    client.deploy(length, words, doubled, ping, Shop)
    return client


@pytest.fixture
def shop(deployed: serve.Client) -> serve.Handle[[str], str]:
    """A handle of the class."""
    return deployed.handle(Shop)


def test_a_function_takes_the_data_of_its_request(deployed: serve.Client) -> None:
    """It gets a request with it."""
    assert deployed.handle(length).call("four") == 4


def test_a_class_is_called(shop: serve.Handle[[str], str]) -> None:
    """By its `__call__`."""
    assert shop.call("hello") == "shop: hello"


def test_a_backend_without_parameters_takes_nothing(deployed: serve.Client) -> None:
    """Its handle is called without arguments."""
    assert deployed.handle(ping).call() == "pong"


def test_batched_code_takes_one_value_a_call(deployed: serve.Client) -> None:
    """The replica makes the batch."""
    assert deployed.handle(doubled).call(3) == 6


def test_the_endpoint_is_the_one_of_the_declaration(deployed: serve.Client) -> None:
    """A backend may share the endpoint of another name."""
    assert deployed.handle(words).endpoint == "typed-split"


def test_a_generator_is_streamed(deployed: serve.Client) -> None:
    """In a thread and on a loop."""
    handle = deployed.handle(words)

    async def collected() -> list[str]:
        return [word async for word in handle.astream("a b c")]

    assert list(handle.stream("a b c")) == asyncio.run(collected()) == ["a", "b", "c"]


def test_a_call_can_be_awaited(shop: serve.Handle[[str], str]) -> None:
    """On a running loop."""
    assert asyncio.run(shop.acall("hello")) == "shop: hello"


def test_the_arguments_of_a_method_are_its_parameters(shop: serve.Handle[[str], str]) -> None:
    """By position and by name."""
    price = shop.method(Shop.price)
    assert price.call("tea") == "1 x tea in EUR"
    assert price.call("tea", 2) == price.call("tea", count=2) == price.call(item="tea", count=2) == "2 x tea in EUR"
    assert price.call("tea", 2, currency="USD") == "2 x tea in USD"


def test_positional_arguments_are_named_on_a_loop_too(shop: serve.Handle[[str], str]) -> None:
    """As in a thread."""
    assert asyncio.run(shop.method(Shop.price).acall("tea", 2)) == "2 x tea in EUR"


def test_a_method_that_yields_is_streamed(shop: serve.Handle[[str], str]) -> None:
    """Like a generator backend."""
    assert list(shop.method(Shop.items).stream(3)) == [0, 1, 2]


def test_a_method_that_takes_a_request_takes_its_data(shop: serve.Handle[[str], str]) -> None:
    """One value."""
    assert shop.method(Shop.explain).call("x") == {"data": "x"}


def test_options_keep_the_method(shop: serve.Handle[[str], str]) -> None:
    """And with it the names of its parameters."""
    assert shop.method(Shop.price).options(timeout_s=30.0).call("tea", 2) == "2 x tea in EUR"


def test_another_method_name_forgets_the_parameters(shop: serve.Handle[[str], str]) -> None:
    """They are not those of the method that is named."""
    handle: Any = shop.method(Shop.price).options(method_name="twice")
    assert handle.call(4) == 8
    with pytest.raises(TypeError, match="at most 1 positional"):
        handle.call(4, 5)


def test_a_typed_handle_can_be_pickled(shop: serve.Handle[[str], str]) -> None:
    """With its method."""
    assert pickle.loads(pickle.dumps(shop.method(Shop.price))).call("tea", 2) == "2 x tea in EUR"


def test_too_many_arguments_are_refused_before_anything_is_sent(shop: serve.Handle[[str], str]) -> None:
    """As is one that is given twice."""
    price: Any = shop.method(Shop.price)
    with pytest.raises(TypeError, match="at most 2 positional arguments, got 3"):
        price.call("tea", 2, "USD")
    with pytest.raises(TypeError, match="'count' twice"):
        price.call("tea", 2, count=3)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Shop.kind, "class method use handle.options"),
        (Shop("x").price, "is bound already"),
        ("price", "expected a method of the backend's class, such as Mood.count, got 'price'"),
        (Shop.two, "'second' is positional only"),
    ],
    ids=["class method", "bound", "name", "positional only"],
)
def test_what_is_no_method_of_the_class_is_refused(shop: serve.Handle[[str], str], method: Any, message: str) -> None:
    """The error says what to pass instead."""
    with pytest.raises(TypeError, match=message):
        shop.method(method)


def test_a_backend_that_is_not_declared_has_no_typed_handle(deployed: serve.Client) -> None:
    """Its endpoint is called by name."""
    with pytest.raises(TypeError, match=r"version_1.* is not declared.*serve\.get_handle\(name\)"):
        deployed.handle(backends.version_1)


def test_an_application_has_no_handle(deployed: serve.Client) -> None:
    """It is called over HTTP."""
    given: Any = typed_backends.application
    with pytest.raises(serve.ConfigError, match="called over HTTP only"):
        deployed.handle(given)


def test_a_backend_that_is_not_deployed_has_no_endpoint(client: serve.Client) -> None:
    """Which is said when the handle is made."""

    @serve.backend("typed-nowhere")
    def nowhere(request: serve.ServeRequest[str]) -> str:
        return request.data

    with pytest.raises(serve.EndpointNotFound, match="typed-nowhere"):
        client.handle(nowhere)
