"""Endpoints: creating, listing and deleting them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.serving import Serving


@pytest.fixture(scope="module")
def backend(module_serving: Serving) -> str:
    """A backend for endpoints to name."""
    return module_serving.backend(backends.version_1)


def test_an_endpoint_is_listed(client: serve.Client, serving: Serving, backend: str) -> None:
    """With route, methods, traffic and shadows."""
    name = serving.name()
    client.create_endpoint(name, backend=backend, route="/a/{b:int}", methods=["post", "GET", "HEAD"])
    assert client.list_endpoints() == {
        name: {
            "route": "/a/{b:int}",
            "methods": ["POST", "GET"],
            "timeout_s": None,
            "traffic": {backend: 1.0},
            "shadows": {},
        }
    }


def test_an_endpoint_without_a_route_is_for_handles_only(
    client: serve.Client, serving: Serving, backend: str, http: httpx.Client
) -> None:
    """No path leads to it."""
    name = serving.name()
    client.create_endpoint(name, backend=backend)
    assert client.get_handle(name).call() == "v1"
    assert client.list_endpoints()[name]["route"] is None
    assert http.get("/-/routes").json() == {}


def test_several_endpoints_share_a_backend(client: serve.Client, serving: Serving, backend: str) -> None:
    """Each with its own policy."""
    first, second = serving.name(), serving.name()
    for name in (first, second):
        client.create_endpoint(name, backend=backend)
    assert [client.get_handle(name).call() for name in (first, second)] == ["v1", "v1"]


def test_an_endpoint_is_routed_when_create_returns(
    client: serve.Client, serving: Serving, backend: str, http: httpx.Client
) -> None:
    """Every time, not only when one is slow to ask."""
    for n in range(20):
        name = serving.name()
        client.create_endpoint(name, backend=backend, route=f"/{n}")
        assert http.get(f"/{n}").text == "v1"


def test_a_deleted_endpoint_is_not_routed(
    client: serve.Client, serving: Serving, backend: str, http: httpx.Client
) -> None:
    """Old handles raise EndpointNotFound, HTTP answers 404."""
    name = serving.name()
    client.create_endpoint(name, backend=backend, route="/here")
    handle = client.get_handle(name)
    client.delete_endpoint(name)
    with pytest.raises(serve.EndpointNotFound, match=name):
        handle.call()
    assert http.get("/here").status_code == 404


def test_a_name_and_a_route_can_be_used_again(
    client: serve.Client, serving: Serving, backend: str, http: httpx.Client
) -> None:
    """After the endpoint was deleted; an old handle finds the new one."""
    name = serving.name()
    client.create_endpoint(name, backend=backend, route="/again")
    handle = client.get_handle(name)
    client.delete_endpoint(name)
    client.create_endpoint(name, backend=serving.backend(backends.version_2), route="/again")
    assert (handle.call(), http.get("/again").text) == ("v2", "v2")


def test_deleting_an_unknown_endpoint_does_nothing(client: serve.Client) -> None:
    """It returns None."""
    client.delete_endpoint("missing")


def test_an_unknown_backend_is_refused(client: serve.Client, serving: Serving) -> None:
    """Nothing was created."""
    with pytest.raises(serve.BackendNotFound, match="'missing'"):
        client.create_endpoint(serving.name(), backend="missing")
    assert client.list_endpoints() == {}


def test_a_taken_name_is_refused(client: serve.Client, serving: Serving, backend: str) -> None:
    """The first stays."""
    name = serving.name()
    client.create_endpoint(name, backend=backend, route="/first")
    with pytest.raises(ValueError, match="exists already"):
        client.create_endpoint(name, backend=backend, route="/second")
    assert client.list_endpoints()[name]["route"] == "/first"


def test_a_taken_route_is_refused(client: serve.Client, serving: Serving, backend: str) -> None:
    """The error names who has it."""
    first, second = serving.name(), serving.name()
    client.create_endpoint(first, backend=backend, route="/taken")
    with pytest.raises(ValueError, match=f"'/taken' belongs to endpoint '{first}'"):
        client.create_endpoint(second, backend=backend, route="/taken")
    assert list(client.list_endpoints()) == [first]


def test_the_endpoint_that_was_created_first_wins(
    client: serve.Client, serving: Serving, backend: str, http: httpx.Client
) -> None:
    """Where two routes match."""
    first, second = serving.name(), serving.name()
    client.create_endpoint(first, backend=backend, route="/items/{any}")
    client.create_endpoint(second, backend=serving.backend(backends.version_2), route="/items/special")
    assert http.get("/items/special").text == "v1"
    client.delete_endpoint(first)
    assert http.get("/items/special").text == "v2"


def test_many_endpoints_are_listed_in_the_order_of_their_creation(
    client: serve.Client, serving: Serving, backend: str, http: httpx.Client
) -> None:
    """So are their routes."""
    created = [serving.name() for _ in range(30)]
    for name in created:
        client.create_endpoint(name, backend=backend, route=f"/order/{name}")
    assert list(client.list_endpoints()) == created
    assert list(http.get("/-/routes").json()) == [f"/order/{name}" for name in created]


@pytest.mark.parametrize(
    ("path", "asked", "found"),
    [
        ("{x:int}", "12", {"x": 12}),
        ("{x:float}", "1.5", {"x": 1.5}),
        ("{x:path}", "a/b/c", {"x": "a/b/c"}),
        ("{x:uuid}", "7b0c3c1e-1d3c-4d0a-9f5e-0c8b7a6d5e4f", {"x": "7b0c3c1e-1d3c-4d0a-9f5e-0c8b7a6d5e4f"}),
        ("{x}/{y:int}", "ä b/3", {"x": "ä b", "y": 3}),
    ],
)
def test_converters(
    client: serve.Client, serving: Serving, http: httpx.Client, path: str, asked: str, found: Any
) -> None:
    """str, int, float, path and uuid, as in Starlette."""
    served = serving(lambda request: request.path_params, path=f"/{path}")
    assert http.get(f"/{served.name}/{asked}").json() == found
