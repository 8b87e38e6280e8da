"""Planning a deployment: what is declared against what runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.deployment.change import Change, Order, Plan
from serve_bridge.deployment.plan import plan as plan_of
from serve_bridge.deployment.result import Deployment
from serve_bridge.deployment.running import DeclaredBackend, Running, RunningBackend, RunningEndpoint
from serve_bridge.errors import ConfigError
from serve_bridge.specs import DeclaredEndpoint
from serve_bridge.traffic import TrafficPolicy

GET = ("GET",)


def backend(name: str = "b", endpoint: str = "e", fingerprint: str = "f", **config: Any) -> DeclaredBackend:
    """Return a declared backend."""
    return DeclaredBackend(name, endpoint, fingerprint, BackendConfig(**config), is_async=False)


def running_backend(
    fingerprint: str = "f", declared: Mapping[str, Any] | None = None, owner: str | None = "shop", **by_hand: Any
) -> RunningBackend:
    """Return a backend that runs, with options that were declared and others that were not."""
    config = BackendConfig(**(declared or {}), **by_hand).resolved(False)
    return RunningBackend(config, fingerprint, frozenset(declared or ()), owner)


def endpoint(route: str | None = "/e", *backends: str, owner: str | None = "shop") -> RunningEndpoint:
    """Return an endpoint that runs; the first of *backends* has all its traffic."""
    names = backends or ("b",)
    return RunningEndpoint(route, GET, TrafficPolicy({name: float(name == names[0]) for name in names}), owner)


DECLARED = DeclaredEndpoint("e", "b", "/e", GET)
RUNNING = Running({"b": running_backend()}, {"e": endpoint()})


def plan(backends: list[DeclaredBackend], endpoints: list[DeclaredEndpoint], running: Running, **how: Any) -> Plan:
    """Return the plan of project "shop"."""
    return plan_of(backends, endpoints, running, Order("shop", **how))


def planned(backends: list[DeclaredBackend], endpoints: list[DeclaredEndpoint], running: Running, **how: Any) -> Any:
    """Return the kinds and names of the changes."""
    return [(change.kind, change.name) for change in plan(backends, endpoints, running, **how).changes]


def test_what_does_not_exist_is_created() -> None:
    """Backends first: an endpoint needs one."""
    assert planned([backend()], [DECLARED], Running()) == [("create backend", "b"), ("create endpoint", "e")]


def test_what_is_as_declared_stays() -> None:
    """Nothing to do."""
    made = plan([backend()], [DECLARED], RUNNING)
    assert (made.changes, made.notes) == ((), ())


def test_other_code_is_a_rolling_update() -> None:
    """That takes the options along."""
    changes = plan([backend(fingerprint="other", num_replicas=2)], [DECLARED], RUNNING).changes
    assert [(change.kind, change.options) for change in changes] == [("update backend", {"num_replicas": 2})]


def test_code_that_was_given_by_hand_is_replaced() -> None:
    """The name is the project's."""
    running = replace(RUNNING, backends={"b": running_backend(fingerprint="")})
    changes = plan([backend()], [DECLARED], running).changes
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
    changes = plan([backend(**declared)], [DECLARED], replace(RUNNING, backends={"b": running})).changes
    assert [(change.kind, dict(change.options)) for change in changes] == (
        [("configure backend", changed)] if changed else []
    )


@pytest.mark.parametrize(
    ("running", "reason"),
    [
        (endpoint("/old"), "GET /old -> GET /e; its traffic stays"),
        (endpoint(None), "no route -> GET /e; its traffic stays"),
        (replace(endpoint(), timeout_s=2.5), "GET /e, at most 2.5 s -> GET /e; its traffic stays"),
    ],
)
def test_an_endpoint_follows_its_declaration(running: RunningEndpoint, reason: str) -> None:
    """Whatever its traffic is."""
    changes = plan([backend()], [DECLARED], replace(RUNNING, endpoints={"e": running})).changes
    assert [(change.kind, change.reason) for change in changes] == [("change endpoint", reason)]


def test_a_second_backend_of_an_endpoint_gets_no_traffic() -> None:
    """Who operates the instance decides that, and is told."""
    changes = plan([backend(), backend("new")], [DECLARED], RUNNING).changes
    assert [change.reason for change in changes] == ["new; endpoint e sends it nothing until its traffic is set"]


# Traffic


TWO = [backend(), backend("new")]
SPLIT = replace(DECLARED, traffic={"b": 0.9, "new": 0.1}, shadows={"new": 0.5})


def test_a_new_endpoint_gets_its_declared_traffic() -> None:
    """Its split and its shadows."""
    made = plan(TWO, [SPLIT], Running())
    assert made.changes[-1].reason == "GET /e, traffic 0.9 b, 0.1 new, 0.5 copies to new"
    assert made.endpoints == (SPLIT,)


def test_a_new_endpoint_with_two_backends_needs_a_declared_split() -> None:
    """No order of modules decides which version answers."""
    with pytest.raises(ConfigError, match=r"share its traffic, such as serve\.endpoint\('e', traffic="):
        plan(TWO, [DECLARED], Running())


def test_the_operators_traffic_stays_and_is_told() -> None:
    """A declaration alone undoes no release."""
    made = plan(TWO, [SPLIT], Running({"b": running_backend(), "new": running_backend()}, {"e": endpoint("/e", "new")}))
    assert made.changes == ()
    assert (made.endpoints[0].traffic, made.endpoints[0].shadows) == (None, None)
    assert made.notes == (
        "endpoint e keeps its traffic, 1 new, although 0.9 b, 0.1 new, 0.5 copies to new is declared; "
        "deploy with --traffic (traffic=True) to apply the declaration",
    )


def test_declared_traffic_is_applied_when_it_is_asked_for() -> None:
    """And only what is declared of it: shadows that are not declared stay."""
    policy = TrafficPolicy({"new": 1.0}, {"b": 0.25})
    running = Running(
        {"b": running_backend(), "new": running_backend()}, {"e": replace(endpoint("/e"), traffic=policy)}
    )
    made = plan(TWO, [replace(SPLIT, shadows=None)], running, traffic=True)
    assert [change.reason for change in made.changes] == [
        "traffic 1 new, 0.25 copies to b -> 0.9 b, 0.1 new, 0.25 copies to b"
    ]
    assert made.notes == ()


def test_a_backend_that_declared_traffic_leaves_can_be_pruned_at_once() -> None:
    """Traffic changes before backends are deleted."""
    running = Running({"b": running_backend(), "old": running_backend()}, {"e": endpoint("/e", "old", "b")})
    declared = [replace(DECLARED, traffic={"b": 1.0})]
    assert planned([backend()], declared, running, prune=True, traffic=True) == [
        ("change endpoint", "e"),
        ("delete backend", "old"),
    ]


def test_traffic_to_an_unknown_backend_is_refused() -> None:
    """The nearest name is suggested."""
    with pytest.raises(ConfigError, match=r"backend 'nwe', which is neither declared nor running.*did you mean 'new'"):
        plan(TWO, [replace(DECLARED, traffic={"nwe": 1.0})], Running())


# Owners


OTHERS = [
    (Running({"b": running_backend(owner="blog")}), "backend 'b' belongs to project 'blog'"),
    (Running({"b": running_backend("", owner=None)}), "backend 'b' was made by hand"),
    (Running({"b": running_backend()}, {"e": endpoint(owner="blog")}), "endpoint 'e' belongs to project 'blog'"),
    (Running({"b": running_backend()}, {"e": endpoint(owner=None)}), "endpoint 'e' was made by hand"),
]


@pytest.mark.parametrize(("running", "text"), OTHERS)
def test_what_another_owner_has_made_is_refused(running: Running, text: str) -> None:
    """The error names both owners."""
    with pytest.raises(ConfigError, match=f"project 'shop' cannot deploy .*{text}.*--take-over"):
        plan([backend()], [DECLARED], running)


@pytest.mark.parametrize(("running", "text"), OTHERS)
def test_what_another_owner_has_made_is_taken_over_when_asked(running: Running, text: str) -> None:
    """Unchanged code keeps its replicas."""
    made = plan([backend()], [DECLARED], running, take_over=True)
    assert any(("taken over from" in change.reason) or ("by hand" in change.reason) for change in made.changes)
    kinds = [change.kind for change in made.changes]
    assert ("update backend" in kinds) == (running.backends["b"].fingerprint == "")


def test_pruning_stays_within_the_owner() -> None:
    """Another project's things are none of its business."""
    running = Running({"old": running_backend(owner="blog")}, {"gone": endpoint("/gone", "old", owner="blog")})
    assert planned([backend()], [DECLARED], running, prune=True) == [("create backend", "b"), ("create endpoint", "e")]


# Unfinished deployments


def test_what_an_unfinished_deployment_created_is_withdrawn_if_it_is_not_declared() -> None:
    """Without `prune`, and only that."""
    running = Running(
        {"b": running_backend(), "new": running_backend(), "old": running_backend()},
        {"e": endpoint(), "new": endpoint("/new", "new"), "old": endpoint("/old", "old")},
    )
    made = plan([backend()], [DECLARED], running, unfinished=frozenset({"backend new", "endpoint new", "backend b"}))
    assert [(change.kind, change.name) for change in made.changes] == [
        ("delete endpoint", "new"),
        ("delete backend", "new"),
    ]
    assert made.changes[1].reason.startswith("of an unfinished deployment, not declared now")


# Routes


def test_endpoints_may_exchange_their_routes() -> None:
    """All of them are changed at once."""
    declared = [DeclaredEndpoint("e", "b", "/f", GET), DeclaredEndpoint("f", "b", "/e", GET)]
    running = replace(RUNNING, endpoints={"e": endpoint("/e"), "f": endpoint("/f")})
    assert planned([backend()], declared, running) == [("change endpoint", "e"), ("change endpoint", "f")]


def test_a_route_that_somebody_else_has_is_refused() -> None:
    """Before anything has changed."""
    running = Running(RUNNING.backends, {"other": endpoint("/e", owner=None)})
    with pytest.raises(ConfigError, match="taken by endpoint 'other'"):
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


def test_a_deletion_says_what_traffic_goes_with_it() -> None:
    """A backend may have all of it."""
    reasons = [change.reason for change in plan([backend()], [DECLARED], OLD, prune=True).changes]
    assert reasons == [
        "no longer declared; its traffic is 1 old",
        "no longer declared; it answers endpoint gone, which is deleted too",
    ]


def test_a_backend_whose_code_was_given_by_hand_is_not_pruned() -> None:
    """A person has work in it."""
    running = Running({**RUNNING.backends, "old": running_backend("")}, RUNNING.endpoints)
    made = plan([backend()], [DECLARED], running, prune=True)
    assert made.changes == ()
    assert made.notes == ("backend old is no longer declared, but stays, since its code was given by hand",)


def test_what_was_made_by_hand_is_never_pruned() -> None:
    """No deployment made it."""
    running = Running({"old": running_backend("", owner=None)}, {"gone": endpoint("/gone", "old", owner=None)})
    assert planned([], [], running, prune=True) == []


def test_a_backend_that_gets_traffic_stays_and_is_named() -> None:
    """Traffic is not a deployment's to change."""
    running = replace(OLD, endpoints={"e": endpoint("/e", "b", "old")})
    made = plan([backend()], [DECLARED], running, prune=True)
    assert made.changes == ()
    assert "backend old" in made.notes[0]
    assert made.notes[0].endswith("change the traffic of: e")


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
    """Return the endpoints that *backends* need, all traffic of each to its first backend."""
    first: dict[str, str] = {}
    for each in backends:
        first.setdefault(each.endpoint, each.name)
    return [DeclaredEndpoint(name, own, ROUTES[name], GET, traffic={own: 1.0}) for name, own in first.items()]


def after(running: Running, made: Plan, backends: list[DeclaredBackend]) -> Running:
    """Return what runs after the changes of *made*, by a model of the engine."""
    declared = {each.name: each for each in backends}
    endpoints = {each.name: each for each in made.endpoints}
    now_backends, now_endpoints = dict(running.backends), dict(running.endpoints)
    for change in made.changes:
        what = declared.get(change.name)
        if change.kind == "delete backend":
            assert all(change.name not in each.traffic.backends() for each in now_endpoints.values())
            del now_backends[change.name]
        elif change.kind == "delete endpoint":
            del now_endpoints[change.name]
        elif change.kind.endswith("endpoint"):
            wanted = endpoints[change.name]
            old = now_endpoints.get(change.name)
            assert wanted.backend in now_backends
            policy = wanted.policy_after(None if old is None else old.traffic)
            now_endpoints[change.name] = RunningEndpoint(wanted.route, wanted.methods, policy, "shop")
        else:
            assert what is not None
            base = now_backends[change.name].config if change.name in now_backends else BackendConfig()
            options = what.config if change.kind == "create backend" else BackendConfig(**change.options)
            config = base.merged(options).resolved(what.is_async)
            now_backends[change.name] = RunningBackend(config, what.fingerprint, what.config.given, "shop")
    return Running(now_backends, now_endpoints)


@given(DECLARATIONS, DECLARATIONS, st.booleans(), st.booleans(), st.booleans())
def test_a_second_deployment_changes_nothing(
    before: list[DeclaredBackend], backends: list[DeclaredBackend], prune: bool, force: bool, traffic: bool
) -> None:
    """Whatever ran before the first."""
    running = after(Running(), plan(before, endpoints_of(before), Running()), before)
    made = plan(backends, endpoints_of(backends), running, prune=prune, force=force, traffic=traffic)
    now = after(running, made, backends)
    assert plan(backends, endpoints_of(backends), now, prune=prune, traffic=traffic).changes == ()
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
        "project": "",
    }
