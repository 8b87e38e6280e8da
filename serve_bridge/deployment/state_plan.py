"""The plan for an exported state: the changes that make an instance match it.

Rule 1: the plan is pure. A second application of the same state has no changes.
Rule 2: the state is complete. Backends and endpoints that it does not name are deleted.
Rule 3: revisions and incomplete deployments are facts of one instance, and are not applied to another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from serve_bridge.config.backend_config import BACKEND_DEFAULTS
from serve_bridge.deployment.change import Change, Plan
from serve_bridge.printable import shown
from serve_bridge.specs import DeclaredEndpoint
from serve_bridge.state.records import BackendRecord, EndpointRecord, StateRecord, ValueRecord

_DEFAULTS: Final[Mapping[str, Any]] = json.loads(json.dumps(dict(BACKEND_DEFAULTS)))


def state_plan(wanted: StateRecord, running: StateRecord, blob: Callable[[str], bytes]) -> Plan:
    """Return the changes from *running* to *wanted*; *blob* returns code or a pickle by its SHA-256.

    Raises:
        ConfigError: An option of *wanted* is unknown to this version, or code is missing.
    """
    backends = [_backend_change(name, each, running.backends.get(name), blob) for name, each in wanted.backends.items()]
    moved = _moved(wanted, running)
    endpoints = [
        _endpoint_change(name, each, running.endpoints.get(name), moved=name in moved)
        for name, each in wanted.endpoints.items()
    ]
    return Plan(
        changes=(
            *(change for change in backends if change is not None),
            *(
                Change("delete endpoint", name, f"not in the state; its traffic is {_shares(each.traffic)}")
                for name, each in running.endpoints.items()
                if name not in wanted.endpoints
            ),
            *(change for change in endpoints if change is not None),
            *(
                Change("delete backend", name, "not in the state")
                for name in running.backends
                if name not in wanted.backends
            ),
        ),
        notes=tuple(
            f"backend {name} stays with project {each.origin.owner}, although the state has no owner for it"
            for name, each in running.backends.items()
            if each.origin is not None and name in wanted.backends and wanted.backends[name].origin is None
        ),
        endpoints=tuple(_declared(name, each) for name, each in wanted.endpoints.items()),
        moved_endpoints=tuple(moved),
    )


def _backend_change(
    name: str, wanted: BackendRecord, running: BackendRecord | None, blob: Callable[[str], bytes]
) -> Change | None:
    if running is None:
        return Change("create backend", name, "new")
    options = _changed_options(wanted, running, blob)
    reasons = [f"{each}: {_brief(running, each)} -> {_brief(wanted, each)}" for each in options]
    if wanted.origin is not None and wanted.origin != running.origin:
        reasons.append(f"deployed by project {wanted.origin.owner}")
    code = []
    if wanted.code != running.code:
        code.append("its code differs")
    if not wanted.ray_actor_options.is_same(running.ray_actor_options):
        code.append("its ray_actor_options differ")
    if code:
        return Change("update backend", name, "; ".join([*code, *reasons]), options)
    return Change("configure backend", name, "; ".join(reasons), options) if reasons else None


def _changed_options(wanted: BackendRecord, running: BackendRecord, blob: Callable[[str], bytes]) -> dict[str, Any]:
    new = wanted.config(blob)  # checks the options
    changed = {
        name: getattr(new, name)
        for name in sorted({*wanted.options, *running.options} - {"user_config"})
        if _option(wanted, name) != _option(running, name)
    }
    if not _same(wanted.user_config, running.user_config):
        changed["user_config"] = new.user_config
    return changed


def _option(backend: BackendRecord, name: str) -> Any:
    return backend.options.get(name, _DEFAULTS.get(name))


def _same(wanted: ValueRecord | None, running: ValueRecord | None) -> bool:
    return running is None if wanted is None else wanted.is_same(running)


def _brief(backend: BackendRecord, name: str) -> str:
    value = _option(backend, name)
    if name == "user_config" and backend.user_config is not None:
        if backend.user_config.pickled:
            return "..."
        value = backend.user_config.value
    text = shown(value)
    return text if len(text) <= 40 else "..."


def _moved(wanted: StateRecord, running: StateRecord) -> list[str]:
    """Return the endpoints that must be created again, so that all have the wanted order."""
    after = [name for name in running.endpoints if name in wanted.endpoints]
    after += [name for name in wanted.endpoints if name not in running.endpoints]
    if after == list(wanted.endpoints):
        return []
    return [name for name in wanted.endpoints if name in running.endpoints]


def _endpoint_change(
    name: str, wanted: EndpointRecord, running: EndpointRecord | None, *, moved: bool
) -> Change | None:
    where = f"{' '.join(wanted.methods)} {wanted.route}" if wanted.route is not None else "no route"
    if running is None:
        return Change("create endpoint", name, f"{where}, traffic {_shares(wanted.traffic)}")
    reasons = []
    if (wanted.route, wanted.methods, wanted.timeout_s) != (running.route, running.methods, running.timeout_s):
        reasons.append(where if wanted.timeout_s is None else f"{where}, at most {wanted.timeout_s:g} s")
    if wanted.traffic != running.traffic:
        reasons.append(f"traffic {_shares(running.traffic)} -> {_shares(wanted.traffic)}")
    if wanted.shadows != running.shadows:
        reasons.append(f"copies to {_shares(running.shadows)} -> {_shares(wanted.shadows)}")
    if wanted.origin != running.origin:
        reasons.append("made by hand" if wanted.origin is None else f"deployed by project {wanted.origin.owner}")
    if moved:
        reasons.append("its place in the order of routes")
    return Change("change endpoint", name, "; ".join(reasons)) if reasons else None


def _declared(name: str, endpoint: EndpointRecord) -> DeclaredEndpoint:
    return DeclaredEndpoint(
        name=name,
        backend=next(iter(endpoint.traffic)),
        route=endpoint.route,
        methods=endpoint.methods,
        timeout_s=endpoint.timeout_s,
        traffic=endpoint.traffic,
        shadows=endpoint.shadows,
        origin=endpoint.origin.restored() if endpoint.origin is not None else None,
    )


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.3g} {name}" for name, share in shares.items()) or "none"
