"""Bad arguments: each is refused in the caller by a typed error that names it, and nothing starts or changes."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import serve_bridge as serve


def function(request: Any) -> str:
    """Be a backend."""
    return "served"


class Code:
    """A backend with a constructor."""

    def __init__(self, needed: int) -> None: ...

    def __call__(self, request: Any) -> str:
        """Be a backend."""
        return "served"


class Abstract(abc.ABC):
    """Never an instance."""

    @abc.abstractmethod
    def __call__(self, request: Any) -> None:
        """Be implemented by nobody."""


class Asynchronous:
    """Its constructor would never be awaited."""

    async def __init__(self) -> None: ...  # type: ignore[misc]

    def __call__(self, request: Any) -> None:
        """Be a backend."""


class Empty:
    """Nothing to serve."""


@pytest.fixture(scope="module")
def local() -> Iterator[serve.Client]:
    """An instance with the backend `b` and the endpoint `e` over it at `/e`."""
    client = serve.start(runtime="local", name="bad-input", http_options={"location": None})
    client.create_backend("b", function)
    client.create_endpoint("e", backend="b", route="/e")
    yield client
    client.shutdown()


@pytest.fixture(autouse=True)
def unchanged(local: serve.Client) -> Iterator[None]:
    """Whatever a test tries, the instance is as it was."""
    before = local.list_backends(), local.list_endpoints()
    yield
    assert (local.list_backends(), local.list_endpoints()) == before
    assert local.get_handle("e").call() == "served"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (5, "instance of builtins.int"),
        (None, "NoneType"),
        (Code(1), "instance of"),
        (functools.partial(function), "functools.partial"),
        (len, "builtin function len"),
        (Code(1).__call__, "bound method"),
        (dict, "builtin class dict"),
        (pytest, "module pytest"),
        (Abstract, "abstract"),
        (Asynchronous, "__init__ must be a plain `def`"),
        (Empty, "nothing to serve"),
        (lambda request, more: None, "more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_backend(local: serve.Client, code: Any, text: str) -> None:
    """A TypeError says what it got."""
    with pytest.raises(TypeError, match=text):
        local.create_backend("new", code)
    with pytest.raises(TypeError, match=text):
        local.update_backend("b", code)


@pytest.mark.parametrize(
    ("create", "error", "text"),
    [
        (lambda c: c("new", function, 1), ValueError, "no constructor to take arguments"),
        (lambda c: c("new", Code), TypeError, "needed"),
        (lambda c: c("new", Code, 1, 2), TypeError, "Code"),
        (lambda c: c("new", Code, wrong=1), TypeError, "Code"),
        (lambda c: c("new", "no path"), ValueError, "package.module:Attr"),
        (lambda c: c("new", function, config=5), TypeError, "BackendConfig"),
        (lambda c: c("new", function, config={"num_replica": 1}), ValueError, "did you mean 'num_replicas'"),
        (lambda c: c("new", function, config={"num_replicas": "2"}), ValueError, "num_replicas must be an int"),
        (lambda c: c("new", function, config={"num_replicas": True}), ValueError, "num_replicas must be an int"),
        (lambda c: c("new", function, config={"max_concurrent_queries": 0}), ValueError, "max_concurrent_queries"),
        (lambda c: c("new", function, config={"batch_wait_timeout": float("nan")}), ValueError, "batch_wait_timeout"),
        (lambda c: c("new", function, config={"threads": 0}), ValueError, "threads"),
        (lambda c: c("new", Code, 1, config={"exposed_methods": ["_x"]}), ValueError, "_x"),
        (lambda c: c("new", Code, (n for n in ())), serve.SerializationError, r"init_args\[0\].*generator"),
        (lambda c: c("new", function, ray_actor_options=[]), TypeError, "ray_actor_options"),
        (lambda c: c("b", function), ValueError, "exists already"),
    ],
)
def test_bad_arguments_of_create_backend(
    local: serve.Client, create: Callable[[Any], None], error: type[Exception], text: str
) -> None:
    """The error names the argument."""
    with pytest.raises(error, match=text):
        create(local.create_backend)


@pytest.mark.parametrize("name", [None, 5, b"bytes"])
def test_a_name_that_is_no_str(local: serve.Client, name: Any) -> None:
    """Is a TypeError, for backends and endpoints."""
    with pytest.raises(TypeError, match="backend name"):
        local.create_backend(name, function)
    with pytest.raises(TypeError, match="endpoint name"):
        local.create_endpoint(name, backend="b")


@pytest.mark.parametrize("name", ["", "a" * 129, "a b", "a/b", "a#b", "a\0b", "ä", "🙂", "-a"])
def test_a_name_of_other_characters(local: serve.Client, name: str) -> None:
    """Is a ValueError that tells the alphabet."""
    with pytest.raises(ValueError, match=r"A-Z a-z 0-9 _ \. : -"):
        local.create_backend(name, function)
    with pytest.raises(ValueError, match=r"A-Z a-z 0-9 _ \. : -"):
        local.create_endpoint(name, backend="b")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, TypeError, "'backend'"),
        ({"backend": None}, TypeError, "backend="),
        pytest.param({"backend": function}, TypeError, "backend=", id="a function as the backend"),
        ({"backend": "missing"}, serve.BackendNotFound, "'missing'"),
        ({"backend": "b", "route": 5}, TypeError, "route"),
        ({"backend": "b", "route": "new"}, TypeError, "route"),
        ({"backend": "b", "route": ""}, TypeError, "route"),
        ({"backend": "b", "route": "/{a:complex}"}, ValueError, "complex"),
        ({"backend": "b", "route": "/{a}/{a}"}, ValueError, "a"),
        ({"backend": "b", "route": "/-/mine"}, ValueError, "/-/"),
        ({"backend": "b", "route": "/e"}, ValueError, "endpoint 'e'"),
        ({"backend": "b", "methods": "GET"}, TypeError, "'GET'"),
        ({"backend": "b", "methods": 5}, TypeError, "methods"),
        ({"backend": "b", "methods": []}, ValueError, "at least one"),
        ({"backend": "b", "methods": ["G ET"]}, ValueError, "'G ET'"),
        ({"backend": "b", "methods": [5]}, TypeError, "5"),
        ({"backend": "b", "timeout_s": 0}, ValueError, "timeout_s"),
        ({"backend": "b", "timeout_s": float("nan")}, ValueError, "timeout_s"),
        ({"backend": "b", "timeout_s": "5"}, ValueError, "timeout_s"),
    ],
    ids=str,
)
def test_bad_arguments_of_create_endpoint(
    local: serve.Client, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The error names the argument."""
    with pytest.raises(error, match=text):
        local.create_endpoint("new", **options)


@pytest.mark.parametrize("weights", [None, 5, [("b", 1.0)], {"b": "1"}, {5: 1.0}, {"b": None}], ids=repr)
def test_weights_that_are_none(local: serve.Client, weights: Any) -> None:
    """Are a ValueError or TypeError."""
    with pytest.raises((TypeError, ValueError)):
        local.set_traffic("e", weights)


@pytest.mark.parametrize("backend", [None, 5, "missing"])
def test_a_shadow_that_is_no_backend(local: serve.Client, backend: Any) -> None:
    """Is refused."""
    with pytest.raises((TypeError, ValueError)):
        local.shadow_traffic("e", backend, 0.5)


@pytest.mark.parametrize("name", [None, 5, "missing"])
def test_an_endpoint_that_is_unknown(local: serve.Client, name: Any) -> None:
    """Has no handle and no traffic."""
    with pytest.raises((TypeError, KeyError)):
        local.get_handle(name)
    with pytest.raises((TypeError, KeyError)):
        local.set_traffic(name, {"b": 1.0})
