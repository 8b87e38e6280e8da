"""The plan of a deployment: the changes from the running backends and endpoints to the declared ones.

Rule 1: the plan is pure. The same declarations and the same instance give the same changes, and none afterwards.
Rule 2: the settings of operators stay: an existing split or shadow, unless the deployment asks for the declared
    traffic, and options without a declaration.
Rule 3: a deployment changes only backends and endpoints of its own project. Otherwise it fails, and the error names the
    owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.deployment.change import Change, Order, Plan
from serve_bridge.deployment.running import DeclaredBackend, Running, RunningBackend, RunningEndpoint
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown
from serve_bridge.specs import DeclaredEndpoint
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.user_code.fingerprint import digest

__all__ = ["plan"]

_DEFAULTS: Final = BackendConfig()


def plan(
    backends: Sequence[DeclaredBackend], endpoints: Sequence[DeclaredEndpoint], running: Running, order: Order
) -> Plan:
    """Return the plan from *running* to the declared backends and endpoints.

    Raises:
        ConfigError: A declared name belongs to another project or was made by hand; a declared route belongs to another
            endpoint; a new endpoint has several backends and no declared traffic; or traffic names an unknown backend.
    """
    _check_owners(backends, endpoints, running, order)
    _check_traffic(backends, endpoints, running)
    kept = {each.name for each in endpoints}
    withdrawn = [
        name
        for name, each in running.endpoints.items()
        if name not in kept and _may_delete(f"endpoint {name}", each.owner, order)
    ]
    _check_routes(endpoints, {n: e for n, e in running.endpoints.items() if n not in withdrawn})
    applied = [_applied(each, running.endpoints.get(each.name), order) for each in endpoints]
    traffic = {n: e.traffic for n, e in running.endpoints.items() if n not in withdrawn}
    traffic |= {each.name: each.policy_after(traffic.get(each.name)) for each in applied}
    started = [_backend_change(each, traffic[each.endpoint], running, order) for each in backends]
    routed = [_endpoint_change(each, running, order) for each in applied]
    ended, notes = _ended({each.name for each in backends}, withdrawn, traffic, running, order)
    changes = (
        *(change for change in started if change is not None),
        *(_deleted_endpoint(name, running.endpoints[name], order) for name in withdrawn),
        *(change for change in routed if change is not None),
        *ended,
    )
    kept_traffic = [_kept_traffic(each, traffic[each.name]) for each in endpoints]
    moved = _moved(backends, running, {change.name for change in started if change is not None})
    places = [f"new replicas of backend {each.name} import from {', '.join(each.search_path)}" for each in moved]
    notes = [*(note for note in kept_traffic if note), *notes, *places]
    return Plan(changes, tuple(notes), tuple(applied), tuple(each.name for each in moved))


# Whose is what


def _check_owners(
    backends: Iterable[DeclaredBackend], endpoints: Iterable[DeclaredEndpoint], running: Running, order: Order
) -> None:
    if order.take_over:
        return
    made: list[tuple[str, RunningBackend | RunningEndpoint]] = [
        *((f"backend {b.name!r}", running.backends[b.name]) for b in backends if b.name in running.backends),
        *((f"endpoint {e.name!r}", running.endpoints[e.name]) for e in endpoints if e.name in running.endpoints),
    ]
    others = [f"{what} {_owner(each.owner)}" for what, each in made if each.owner != order.project]
    if others:
        raise ConfigError(
            f"project {order.project!r} cannot deploy what it does not own: {', '.join(others)}. Use other names, say "
            "whose deployment this is (project=, --project), or take them over (take_over=True, --take-over)"
        )


def _owner(owner: str | None) -> str:
    return "was made by hand" if owner is None else f"belongs to project {owner!r}"


def _may_delete(what: str, owner: str | None, order: Order) -> bool:
    return owner == order.project and (order.prune or what in order.unfinished)


def _taken_over(owner: str | None, order: Order) -> str | None:
    if owner == order.project:
        return None
    return "made by hand, declared from now on" if owner is None else f"taken over from project {owner!r}"


# Backends


def _backend_change(declared: DeclaredBackend, traffic: TrafficPolicy, running: Running, order: Order) -> Change | None:
    old = running.backends.get(declared.name)
    if old is None:
        waits = not traffic.weights.get(declared.name)
        reason = f"new; endpoint {declared.endpoint} sends it nothing until its traffic is set" if waits else "new"
        return Change("create backend", declared.name, reason)
    wanted = _wanted_options(declared, old)
    changed = {name: value for name, (was, value) in wanted.items() if not _same(was, value)}
    taken = _taken_over(old.owner, order)
    if order.force or old.fingerprint != declared.fingerprint:
        why = "its code or what it starts with has changed"
        why = "its code was given by hand" if not old.fingerprint else why if not order.force else "forced"
        why = why if taken is None else f"{taken}; {why}"
        return Change("update backend", declared.name, why, {name: value for name, (_, value) in wanted.items()})
    reasons = [f"{name}: {_brief(wanted[name][0])} -> {_brief(value)}" for name, value in changed.items()]
    reasons = reasons if taken is None else [taken, *reasons]
    return Change("configure backend", declared.name, ", ".join(reasons), changed) if reasons else None


def _moved(backends: Iterable[DeclaredBackend], running: Running, changed: set[str]) -> list[DeclaredBackend]:
    unchanged = [each for each in backends if each.name not in changed]
    return [each for each in unchanged if running.backends[each.name].search_path != each.search_path]


def _wanted_options(declared: DeclaredBackend, old: RunningBackend) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of each declared option.

    An option without a declaration returns to its default if the last deployment declared it.
    """
    target = old.config.merged({name: getattr(_DEFAULTS, name) for name in old.declared}).merged(declared.config)
    target = target.resolved(declared.is_async)
    names = [each.name for each in fields(BackendConfig) if each.name in declared.config.given | old.declared]
    return {name: (getattr(old.config, name), getattr(target, name)) for name in names}


def _same(was: Any, value: Any) -> bool:
    # Not `==`: a `user_config` may hold arrays, or objects with equality by identity.
    return was is value or digest(was) == digest(value)


def _brief(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else "..."


def _ended(
    declared: set[str], withdrawn: Sequence[str], traffic: Mapping[str, TrafficPolicy], running: Running, order: Order
) -> tuple[list[Change], list[str]]:
    """Return the backends to delete, and notes on those that must stay."""
    ended, notes = [], []
    for name, each in running.backends.items():
        if name in declared or not _may_delete(f"backend {name}", each.owner, order):
            continue
        using = [endpoint for endpoint, policy in traffic.items() if name in policy.backends()]
        if using:
            notes.append(
                f"backend {name} is no longer declared, but stays while it gets traffic or copies of it; "
                f"change the traffic of: {', '.join(using)}"
            )
        elif not each.fingerprint:
            notes.append(f"backend {name} is no longer declared, but stays, since its code was given by hand")
        else:
            served = [e for e in withdrawn if running.endpoints[e].traffic.weights.get(name)]
            serves = f"; it answers endpoint {', '.join(served)}, which is deleted too" if served else ""
            ended.append(Change("delete backend", name, f"{_why_deleted(f'backend {name}', order)}{serves}"))
    return ended, notes


def _why_deleted(what: str, order: Order) -> str:
    return "no longer declared" if what not in order.unfinished else "of an unfinished deployment, not declared now"


# Endpoints


def _check_traffic(
    backends: Sequence[DeclaredBackend], endpoints: Iterable[DeclaredEndpoint], running: Running
) -> None:
    known = {*running.backends, *(each.name for each in backends)}
    for endpoint in endpoints:
        own = [each.name for each in backends if each.endpoint == endpoint.name]
        if endpoint.name not in running.endpoints and endpoint.traffic is None and len(own) > 1:
            split = {name: float(index == 0) for index, name in enumerate(own)}
            raise ConfigError(
                f"endpoint {endpoint.name!r} is new and has {len(own)} backends, {', '.join(own)}: declare how they "
                f"share its traffic, such as serve.endpoint({endpoint.name!r}, traffic={split!r})"
            )
        for name in {**(endpoint.traffic or {}), **(endpoint.shadows or {})}:
            if name not in known:
                raise ConfigError(
                    f"the traffic of endpoint {endpoint.name!r} names backend {shown(name)}, which is neither declared "
                    f"nor running{nearest(name, sorted(known))}"
                )


def _check_routes(endpoints: Sequence[DeclaredEndpoint], staying: Mapping[str, RunningEndpoint]) -> None:
    declared = {each.name for each in endpoints}
    for each in endpoints:
        for name, other in staying.items():
            if each.route is not None and other.route == each.route and name not in declared:
                raise ConfigError(
                    f"route {each.route!r} of endpoint {each.name!r} is taken by endpoint {name!r}, which "
                    f"{_owner(other.owner)} and is not declared; delete it first, or let its project prune it"
                )


def _applied(declared: DeclaredEndpoint, old: RunningEndpoint | None, order: Order) -> DeclaredEndpoint:
    """Return *declared*, without its traffic unless the deployment sets it."""
    return declared if old is None or order.traffic else replace(declared, traffic=None, shadows=None)


def _endpoint_change(declared: DeclaredEndpoint, running: Running, order: Order) -> Change | None:
    old = running.endpoints.get(declared.name)
    where = _where(declared)
    if old is None:
        return Change("create endpoint", declared.name, f"{where}, {_all_of(declared.policy_after(None))}")
    reasons = []
    if (old.route, old.methods, old.timeout_s) != (declared.route, declared.methods, declared.timeout_s):
        reasons.append(f"{_where(old)} -> {where}")
    taken = _taken_over(old.owner, order)
    if taken is not None:
        reasons.append(taken)
    new = declared.policy_after(old.traffic)
    if new != old.traffic:
        reasons.append(f"traffic {_shares(old.traffic)} -> {_shares(new)}")
    elif reasons:
        reasons.append("its traffic stays")
    return Change("change endpoint", declared.name, "; ".join(reasons)) if reasons else None


def _deleted_endpoint(name: str, old: RunningEndpoint, order: Order) -> Change:
    return Change(
        "delete endpoint", name, f"{_why_deleted(f'endpoint {name}', order)}; its traffic is {_shares(old.traffic)}"
    )


def _kept_traffic(declared: DeclaredEndpoint, now: TrafficPolicy) -> str | None:
    wanted = declared.policy_after(now)
    if wanted == now:
        return None
    return (
        f"endpoint {declared.name} keeps its traffic, {_shares(now)}, although {_shares(wanted)} is declared; "
        "deploy with --traffic (traffic=True) to apply the declaration"
    )


def _where(endpoint: DeclaredEndpoint | RunningEndpoint) -> str:
    where = f"{' '.join(endpoint.methods)} {endpoint.route}" if endpoint.route is not None else "no route"
    return where if endpoint.timeout_s is None else f"{where}, at most {endpoint.timeout_s:g} s"


def _all_of(policy: TrafficPolicy) -> str:
    whole = len(policy.weights) == 1 and not policy.shadows
    return f"all traffic to {next(iter(policy.weights))}" if whole else f"traffic {_shares(policy)}"


def _shares(policy: TrafficPolicy) -> str:
    shares = [f"{weight:.3g} {name}" for name, weight in policy.weights.items()]
    copies = [f"{share:.3g} copies to {name}" for name, share in policy.shadows.items()]
    return ", ".join([*shares, *copies])
