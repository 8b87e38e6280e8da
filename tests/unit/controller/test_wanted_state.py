"""What users asked for, and the table that follows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.errors import BackendNotFound, ConfigError, EndpointNotFound
from serve_bridge.specs import BackendSpec, DeclaredEndpoint, Origin
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.opaque import Opaque


def wanted() -> WantedState:
    """Return two backends, and an endpoint on the first."""
    made = WantedState()
    for name, is_async in (("v1", False), ("v2", True)):
        made.backends[name] = BackendSpec(name, b"code", is_async, BackendConfig(), Opaque({}))
    made.create_endpoint("predict", backend="v1", route="/predict", methods=("GET",))
    return made


def test_a_new_endpoint_sends_everything_to_its_backend() -> None:
    """Until traffic is set."""
    assert wanted().endpoint("predict").policy.weights == {"v1": 1.0}


def _declare(wanted: WantedState, route: str, name: str = "predict", backend: str = "v1", *gone: str) -> None:
    wanted.declare_endpoints([DeclaredEndpoint(name, backend, route, ("POST",), origin=Origin("shop"))], gone)


REFUSED: list[tuple[type[Exception], Callable[[WantedState], object]]] = [
    (BackendNotFound, lambda w: w.backend("v3")),
    (EndpointNotFound, lambda w: w.endpoint("other")),
    (BackendNotFound, lambda w: w.create_endpoint("new", backend="v3", route=None, methods=())),
    (ConfigError, lambda w: w.create_endpoint("predict", backend="v1", route=None, methods=())),
    (ConfigError, lambda w: w.create_endpoint("new", backend="v1", route="/predict", methods=())),
    (ConfigError, lambda w: _declare(w, "/predict", "new")),
    (BackendNotFound, lambda w: _declare(w, "/y", "new", "v3")),
    (EndpointNotFound, lambda w: w.set_traffic("other", {"v1": 1.0})),
    (BackendNotFound, lambda w: w.set_traffic("predict", {"v1": 0.5, "v3": 0.5})),
    (ConfigError, lambda w: w.set_traffic("predict", {"v1": 0.5})),
    (EndpointNotFound, lambda w: w.shadow_traffic("other", "v2", 0.5)),
    (BackendNotFound, lambda w: w.shadow_traffic("predict", "v3", 0.5)),
    (TypeError, lambda w: w.shadow_traffic("predict", "v2", 2.0)),
    (ConfigError, lambda w: w.delete_backend("v1", force=False)),
    (ConfigError, lambda w: w.delete_backend("v1", force=True)),
]


@pytest.mark.parametrize(("error", "change"), REFUSED)
def test_a_refused_change_leaves_everything_as_it_was(
    error: type[Exception], change: Callable[[WantedState], object]
) -> None:
    """It is checked whole before any of it is applied."""
    before = wanted()
    after = copy.deepcopy(before)
    with pytest.raises(error):
        change(after)
    assert after == before


def test_a_declared_endpoint_keeps_its_place_and_traffic() -> None:
    """Only its route and methods follow the declaration."""
    made = wanted()
    made.set_traffic("predict", {"v1": 0.5, "v2": 0.5})
    made.create_endpoint("later", backend="v1", route=None, methods=())
    _declare(made, "/new", "predict", "v2")
    assert list(made.endpoints) == ["predict", "later"]
    endpoint = made.endpoint("predict")
    assert (endpoint.route, endpoint.methods, endpoint.origin) == ("/new", ("POST",), Origin("shop"))
    assert endpoint.policy.weights == {"v1": 0.5, "v2": 0.5}


def test_a_route_moves_from_a_withdrawn_endpoint() -> None:
    """Both happen at once."""
    made = wanted()
    _declare(made, "/predict", "new", "v2", "predict")
    assert {name: endpoint.route for name, endpoint in made.endpoints.items()} == {"new": "/predict"}


def test_endpoints_without_a_route_do_not_collide() -> None:
    """Handles reach them."""
    made = wanted()
    made.create_endpoint("a", backend="v1", route=None, methods=())
    made.create_endpoint("b", backend="v1", route=None, methods=())
    assert list(made.endpoints) == ["predict", "a", "b"]


def test_a_backend_with_weight_0_cannot_be_deleted() -> None:
    """Somebody may give it traffic again."""
    made = wanted()
    made.set_traffic("predict", {"v1": 1.0, "v2": 0.0})
    with pytest.raises(ConfigError, match="predict"):
        made.delete_backend("v2", force=True)


def test_a_shadow_is_deleted_only_by_force() -> None:
    """Then the endpoint loses it."""
    made = wanted()
    made.shadow_traffic("predict", "v2", 0.5)
    with pytest.raises(ConfigError, match="predict"):
        made.delete_backend("v2", force=False)
    assert made.delete_backend("v2", force=True) is not None
    assert made.endpoint("predict").policy.shadows == {}


def test_deleting_an_unknown_backend_changes_nothing() -> None:
    """It is gone already."""
    assert wanted().delete_backend("v3", force=False) is None


def test_a_new_split_keeps_the_shadows() -> None:
    """It says nothing about copies."""
    made = wanted()
    made.shadow_traffic("predict", "v2", 0.5)
    made.set_traffic("predict", {"v2": 1.0})
    assert made.describe_endpoints()["predict"] == {
        "route": "/predict",
        "methods": ["GET"],
        "timeout_s": None,
        "traffic": {"v2": 1.0},
        "shadows": {"v2": 0.5},
    }


def test_the_time_of_an_endpoint_is_shown_and_published() -> None:
    """None where it was not given."""
    made = wanted()
    made.create_endpoint("hasty", backend="v1", route=None, methods=(), timeout_s=0.5)
    shown = made.describe_endpoints()
    assert (shown["predict"]["timeout_s"], shown["hasty"]["timeout_s"]) == (None, 0.5)
    times = {name: endpoint.timeout_s for name, endpoint in made.table("g", 1, {}).endpoints.items()}
    assert times == {"predict": None, "hasty": 0.5}


def test_the_table_has_every_backend_with_its_ready_replicas() -> None:
    """Also one without any, and the limits filled in."""
    address = SocketAddress("r1", "/run/r1.sock")
    table = wanted().table("g", 7, {"v1": (address,), "gone": (address,)})
    assert (table.generation, table.version, list(table.backends)) == ("g", 7, ["v1", "v2"])
    assert [backend.replicas for backend in table.backends.values()] == [(address,), ()]
    assert [b.max_concurrent_queries for b in table.backends.values()] == [8, 100]
    assert table.endpoints["predict"].weights == {"v1": 1.0}
