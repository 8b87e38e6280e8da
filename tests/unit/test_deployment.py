"""Planning a deployment: what is declared against what runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.config import BackendConfig
from serve_bridge.deployment import (
    Change,
    DeclaredBackend,
    Deployment,
    Running,
    RunningBackend,
    RunningEndpoint,
    plan,
)
from serve_bridge.errors import ConfigError
from serve_bridge.wanted import DeclaredEndpoint

GET = ("GET",)


def backend(name: str = "b", endpoint: str = "e", fingerprint: str = "f", **config: Any) -> DeclaredBackend:
    """Return a declared backend."""
    return DeclaredBackend(name, endpoint, fingerprint, BackendConfig(**config), is_async=False)


def running_backend(fingerprint: str = "f", declared: Mapping[str, Any] | None = None, **by_hand: Any) -> Any:
    """Return a backend that runs, with options that were declared and others that were not."""
    config = BackendConfig(**(declared or {}), **by_hand).resolved(False)
    return RunningBackend(config, fingerprint, frozenset(declared or ()))


def endpoint(route: str | None = "/e", *backends: str, declared: bool = True) -> RunningEndpoint:
    """Return an endpoint that runs."""
    return RunningEndpoint(route, GET, frozenset(backends or ("b",)), declared)


DECLARED = DeclaredEndpoint("e", "b", "/e", GET)
RUNNING = Running({"b": running_backend()}, {"e": endpoint()})


def planned(backends: list[DeclaredBackend], endpoints: list[DeclaredEndpoint], running: Running, **how: bool) -> Any:
    """Return the kinds and names of the changes."""
    return [(change.kind, change.name) for change in plan(backends, endpoints, running, **how)[0]]


def test_what_does_not_exist_is_created() -> None:
    """Backends first: an endpoint needs one."""
    assert planned([backend()], [DECLARED], Running()) == [("create backend", "b"), ("create endpoint", "e")]


def test_what_is_as_declared_stays() -> None:
    """Nothing to do."""
    assert plan([backend()], [DECLARED], RUNNING) == ((), ())


def test_other_code_is_a_rolling_update() -> None:
    """That takes the options along."""
    changes, _ = plan([backend(fingerprint="other", num_replicas=2)], [DECLARED], RUNNING)
    assert [(change.kind, change.options) for change in changes] == [("update backend", {"num_replicas": 2})]


def test_a_backend_made_by_hand_is_taken_over() -> None:
    """Nobody knows what code it runs."""
    running = replace(RUNNING, backends={"b": running_backend(fingerprint="")})
    changes, _ = plan([backend()], [DECLARED], running)
    assert [(change.kind, change.reason) for change in changes] == [("update backend", "its code was given by hand")]


def test_force_updates_what_is_unchanged() -> None:
    """Its code may depend on what no fingerprint sees."""
    assert planned([backend()], [DECLARED], RUNNING, force=True) == [("update backend", "b")]


@pytest.mark.parametrize(
    ("declared", "running", "changed"),
    [
        ({"num_replicas": 2}, running_backend(), {"num_replicas": 2}),
        ({"num_replicas": 2}, running_backend(declared={"num_replicas": 2}), {}),
        ({"num_replicas": 2}, running_backend(declared={"num_replicas": 5}), {"num_replicas": 2}),
        ({}, running_backend(num_replicas=5), {}),
        ({}, running_backend(declared={"num_replicas": 5}), {"num_replicas": 1}),
        ({"threads": 2}, running_backend(declared={"num_replicas": 5}), {"num_replicas": 1, "threads": 2}),
        ({"max_concurrent_queries": None}, running_backend(), {}),
        ({}, running_backend(declared={"max_concurrent_queries": 3}), {"max_concurrent_queries": 8}),
        ({"user_config": {"a": [1]}}, running_backend(declared={"user_config": {"a": [1]}}), {}),
        (
            {"user_config": {"a": [1]}},
            running_backend(declared={"user_config": {"a": [2]}}),
            {"user_config": {"a": [1]}},
        ),
    ],
)
def test_options_follow_the_declaration(declared: Any, running: RunningBackend, changed: dict[str, Any]) -> None:
    """One that was never declared is whose who operates the instance; one that is not any more has its default."""
    changes, _ = plan([backend(**declared)], [DECLARED], replace(RUNNING, backends={"b": running}))
    assert [(change.kind, dict(change.options)) for change in changes] == (
        [("configure backend", changed)] if changed else []
    )


@pytest.mark.parametrize(
    ("running", "reason"),
    [
        (endpoint("/old"), "GET /old -> GET /e; its traffic stays"),
        (endpoint(None), "no route -> GET /e; its traffic stays"),
        (replace(endpoint(), timeout_s=2.5), "GET /e, at most 2.5 s -> GET /e; its traffic stays"),
        (endpoint(declared=False), "made by hand, declared from now on; its traffic stays"),
    ],
)
def test_an_endpoint_follows_its_declaration(running: RunningEndpoint, reason: str) -> None:
    """Whatever its traffic is."""
    changes, _ = plan([backend()], [DECLARED], replace(RUNNING, endpoints={"e": running}))
    assert [(change.kind, change.reason) for change in changes] == [("change endpoint", reason)]


def test_a_second_backend_of_an_endpoint_gets_no_traffic() -> None:
    """Who operates the instance decides that, and is told."""
    changes, _ = plan([backend(), backend("new")], [DECLARED], RUNNING)
    assert [change.reason for change in changes] == ["new; endpoint e sends it nothing until its traffic is set"]


def test_endpoints_may_exchange_their_routes() -> None:
    """All of them are changed at once."""
    declared = [DeclaredEndpoint("e", "b", "/f", GET), DeclaredEndpoint("f", "b", "/e", GET)]
    running = replace(RUNNING, endpoints={"e": endpoint("/e"), "f": endpoint("/f")})
    assert planned([backend()], declared, running) == [("change endpoint", "e"), ("change endpoint", "f")]


def test_a_route_that_somebody_else_has_is_refused() -> None:
    """Before anything has changed."""
    running = Running(RUNNING.backends, {"other": endpoint("/e", declared=False)})
    with pytest.raises(ConfigError, match="belongs to endpoint 'other'"):
        plan([backend()], [DECLARED], running)


# Pruning


OLD = Running({**RUNNING.backends, "old": running_backend()}, {**RUNNING.endpoints, "gone": endpoint("/gone", "old")})


def test_what_is_not_declared_any_more_stays_unless_pruned() -> None:
    """Another project may have declared it."""
    assert planned([backend()], [DECLARED], OLD) == []


def test_pruning_deletes_endpoints_first() -> None:
    """A backend that gets traffic cannot go."""
    assert planned([backend()], [DECLARED], OLD, prune=True) == [("delete endpoint", "gone"), ("delete backend", "old")]


def test_a_route_moves_from_a_pruned_endpoint() -> None:
    """It is free at the same moment."""
    moved = [DeclaredEndpoint("e", "b", "/gone", GET)]
    assert planned([backend()], moved, OLD, prune=True)[:2] == [("delete endpoint", "gone"), ("change endpoint", "e")]


def test_what_was_made_by_hand_is_never_pruned() -> None:
    """No deployment made it."""
    running = Running({"old": running_backend("")}, {"gone": endpoint("/gone", "old", declared=False)})
    assert plan([], [], running, prune=True) == ((), ())


def test_a_backend_that_gets_traffic_stays_and_is_named() -> None:
    """Traffic is not a deployment's to change."""
    running = replace(OLD, endpoints={"e": endpoint("/e", "b", "old")})
    changes, notes = plan([backend()], [DECLARED], running, prune=True)
    assert changes == ()
    assert "backend old" in notes[0]
    assert notes[0].endswith("change the traffic of: e")


# Any declarations, any instance


NAMES = st.sampled_from(["a", "b", "c"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "num_replicas": st.integers(1, 3),
        "threads": st.integers(1, 2),
        "user_config": st.integers() | st.none(),
    },
)
ROUTES = {"a": "/a", "b": "/b", "c": None}
DECLARATIONS = st.dictionaries(NAMES, st.tuples(NAMES, st.sampled_from(["f", "g"]), OPTIONS)).map(
    lambda found: [backend(name, *given, **options) for name, (*given, options) in found.items()]
)


def endpoints_of(backends: list[DeclaredBackend]) -> list[DeclaredEndpoint]:
    """Return the endpoints that *backends* need."""
    first: dict[str, str] = {}
    for each in backends:
        first.setdefault(each.endpoint, each.name)
    return [DeclaredEndpoint(name, owner, ROUTES[name], GET) for name, owner in first.items()]


def after(running: Running, changes: tuple[Change, ...], backends: list[DeclaredBackend]) -> Running:
    """Return what runs after *changes*, by a model of the engine."""
    declared = {each.name: each for each in backends}
    endpoints = {each.name: each for each in endpoints_of(backends)}
    now_backends, now_endpoints = dict(running.backends), dict(running.endpoints)
    for change in changes:
        what = declared.get(change.name)
        if change.kind == "delete backend":
            assert all(change.name not in each.backends for each in now_endpoints.values())
            del now_backends[change.name]
        elif change.kind == "delete endpoint":
            del now_endpoints[change.name]
        elif change.kind.endswith("endpoint"):
            wanted = endpoints[change.name]
            old = now_endpoints.get(change.name)
            assert wanted.backend in now_backends
            split = frozenset([wanted.backend]) if old is None else old.backends
            now_endpoints[change.name] = RunningEndpoint(wanted.route, wanted.methods, split, True)
        else:
            assert what is not None
            base = now_backends[change.name].config if change.name in now_backends else BackendConfig()
            options = what.config if change.kind == "create backend" else BackendConfig(**change.options)
            config = base.merged(options).resolved(what.is_async)
            now_backends[change.name] = RunningBackend(config, what.fingerprint, what.config.given)
    return Running(now_backends, now_endpoints)


@given(DECLARATIONS, DECLARATIONS, st.booleans(), st.booleans())
def test_a_second_deployment_changes_nothing(
    before: list[DeclaredBackend], backends: list[DeclaredBackend], prune: bool, force: bool
) -> None:
    """Whatever ran before the first."""
    running = after(Running(), plan(before, endpoints_of(before), Running())[0], before)
    changes, _ = plan(backends, endpoints_of(backends), running, prune=prune, force=force)
    now = after(running, changes, backends)
    assert plan(backends, endpoints_of(backends), now, prune=prune)[0] == ()
    for each in backends:
        assert now.backends[each.name].fingerprint == each.fingerprint
        for name in each.config.given:
            assert getattr(now.backends[each.name].config, name) == getattr(each.config, name)


# What people and programs read


def test_a_deployment_reads_as_a_table() -> None:
    """One line a change."""
    changes = (Change("create backend", "b", "new"), Change("create endpoint", "digits", "GET /d"))
    assert str(Deployment("main", changes, ("look at it",))).splitlines() == [
        "instance main: 2 changes",
        "  create backend   b       new",
        "  create endpoint  digits  GET /d",
        "note: look at it",
    ]


def test_a_deployment_that_only_planned_says_so() -> None:
    """Nobody may take it for done."""
    assert "none was made" in str(Deployment("main", (Change("create backend", "b", "new"),), dry_run=True))
    assert str(Deployment("main", ())) == "instance main: as declared, nothing to change"


def test_a_deployment_is_json() -> None:
    """Options, which may be anything, are no part of that."""
    change = Change("update backend", "b", "forced", {"user_config": object()})
    found = Deployment("main", (change,), ("note",)).as_dict()
    assert json.loads(json.dumps(found)) == {
        "instance": "main",
        "changes": [{"kind": "update backend", "name": "b", "reason": "forced"}],
        "notes": ["note"],
        "dry_run": False,
    }
