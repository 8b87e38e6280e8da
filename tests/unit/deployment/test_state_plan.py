"""The plan for an exported state: which changes make an instance match it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.deployment.change import Plan
from serve_bridge.deployment.state_plan import state_plan
from serve_bridge.errors import ConfigError
from serve_bridge.specs import BackendSpec, EndpointSpec, Origin
from serve_bridge.state.records import Recorder, StateRecord
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.wire.opaque import Opaque


def backend(name: str, code: bytes = b"code", origin: Origin | None = None, **options: Any) -> BackendSpec:
    """Return a backend."""
    if "user_config" in options:
        options["user_config"] = Opaque(options["user_config"])
    return BackendSpec(name, code, False, BackendConfig(**options), Opaque({}), origin=origin)


def endpoint(name: str, weights: dict[str, float], origin: Origin | None = None, **shadows: float) -> EndpointSpec:
    """Return an endpoint at a route of its name."""
    return EndpointSpec(name, f"/{name}", ("GET",), TrafficPolicy(weights, shadows), origin)


def state(*parts: BackendSpec | EndpointSpec) -> tuple[StateRecord, Callable[[str], bytes]]:
    """Return the record of a state, and its code."""
    backends = {each.name: each for each in parts if isinstance(each, BackendSpec)}
    record, blobs = Recorder("main").record(
        backends, {each.name: each for each in parts if isinstance(each, EndpointSpec)}, {}
    )
    return record, blobs.__getitem__


def plan(wanted: tuple[StateRecord, Callable[[str], bytes]], running: tuple[StateRecord, Any]) -> Plan:
    """Return the plan from one state to the other."""
    return state_plan(wanted[0], running[0], wanted[1])


ONE = (backend("b", num_replicas=2), endpoint("e", {"b": 1.0}))


def test_the_same_state_has_no_changes() -> None:
    """Whatever the revision: it is a fact of one instance."""
    found = plan(state(*ONE), state(replace(ONE[0], revision=7), ONE[1]))
    assert (found.changes, found.notes, found.moved_endpoints) == ((), (), ())


@pytest.mark.parametrize(
    ("wanted", "running", "changes"),
    [
        (ONE, (), ["create backend b: new", "create endpoint e: GET /e, traffic 1 b"]),
        ((), ONE, ["delete endpoint e: not in the state; its traffic is 1 b", "delete backend b: not in the state"]),
        ([backend("b", num_replicas=3)], [backend("b")], ["configure backend b: num_replicas: 1 -> 3"]),
        ([backend("b")], [backend("b", num_replicas=3)], ["configure backend b: num_replicas: 3 -> 1"]),
        ([backend("b", num_replicas=1)], [backend("b")], []),
        ([backend("b", user_config={"a": 1})], [backend("b", user_config={"a": 1})], []),
        (
            [backend("b", user_config={"a": 2})],
            [backend("b", user_config={"a": 1})],
            ["configure backend b: user_config: {'a': 1} -> {'a': 2}"],
        ),
        ([backend("b")], [backend("b", user_config=(1, 2))], ["configure backend b: user_config: ... -> None"]),
        ([backend("b", user_config=(1, 2))], [backend("b", user_config=(1, 2))], []),
        ([backend("b", b"new")], [backend("b", b"old")], ["update backend b: its code differs"]),
        (
            [backend("b", b"new", threads=2)],
            [backend("b", b"old")],
            ["update backend b: its code differs; threads: 1 -> 2"],
        ),
        (
            [backend("b", origin=Origin("shop", 1.0))],
            [backend("b")],
            ["configure backend b: deployed by project shop"],
        ),
        (
            [endpoint("e", {"a": 0.5, "b": 0.5}, a=0.1)],
            [endpoint("e", {"a": 1.0})],
            ["change endpoint e: traffic 1 a -> 0.5 a, 0.5 b; copies to none -> 0.1 a"],
        ),
        (
            [endpoint("e", {"a": 1.0})],
            [endpoint("e", {"a": 1.0}, Origin("shop"))],
            ["change endpoint e: made by hand"],
        ),
    ],
)
def test_each_difference_is_a_change(wanted: Any, running: Any, changes: list[str]) -> None:
    """With its reason."""
    assert [str(change) for change in plan(state(*wanted), state(*running)).changes] == changes


def test_the_order_of_endpoints_is_a_difference() -> None:
    """Routes are matched in this order, so existing endpoints are created again in one step."""
    first, second, third = (endpoint(name, {"b": 1.0}) for name in ("first", "second", "third"))
    found = plan(state(third, first, second), state(first, second))
    assert found.moved_endpoints == ("first", "second")
    assert [change.title for change in found.changes] == [
        "create endpoint third",
        "change endpoint first",
        "change endpoint second",
    ]
    assert plan(state(first, second, third), state(first, second)).moved_endpoints == ()


def test_an_owner_that_cannot_be_taken_away_is_noted() -> None:
    """The controller has no operation for it."""
    found = plan(state(backend("b")), state(backend("b", origin=Origin("shop"))))
    assert (found.changes, found.notes) == (
        (),
        ("backend b stays with project shop, although the state has no owner for it",),
    )


def test_an_option_of_another_version_is_named() -> None:
    """Before anything changes."""
    wanted = state(backend("b"))
    wanted[0].backends["b"].options["max_temperature"] = 3
    with pytest.raises(ConfigError, match="no option 'max_temperature'"):
        plan(wanted, state(backend("b")))
