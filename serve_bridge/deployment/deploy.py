"""A deployment: it makes an instance match the declarations, by rolling updates.

Rule 1: `plan` decides. This module only makes the changes.
Rule 2: a change is one step of the controller, made whole or not at all. The first failed change ends a deployment, and
    the earlier changes stay.
"""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Unpack

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.deploy_options import DEPLOY_DEFAULTS, DeployOptions
from serve_bridge.config.names import check_name
from serve_bridge.config.signatures import check_options_of
from serve_bridge.deployment.change import Change, Order
from serve_bridge.deployment.collecting import declared_in
from serve_bridge.deployment.declaration import DEFAULT_METHODS, Declaration
from serve_bridge.deployment.endpoint_declaration import EndpointDeclaration
from serve_bridge.deployment.plan import plan
from serve_bridge.deployment.result import Deployment
from serve_bridge.deployment.running import DeclaredBackend, Running, RunningBackend, RunningEndpoint
from serve_bridge.deployment.sources import Sources
from serve_bridge.deployment.steps import configure, make
from serve_bridge.errors import ConfigError, SerializationError
from serve_bridge.instance.instance_status import InstanceStatus
from serve_bridge.instance.operations import Operation
from serve_bridge.management.operator import OPERATION_S, Operator
from serve_bridge.specs import (
    BackendSpec,
    DeclaredEndpoint,
    Origin,
    UnfinishedDeployment,
    opened_config,
)
from serve_bridge.traffic import TrafficPolicy

__all__ = ["Change", "deploy"]

TURN_S: Final = 600.0
"""Upper limit for the wait, in seconds, until another deployment of the project has ended."""
_logger: Final = logging.getLogger("serve_bridge.deployment")

Confirm = Callable[[Sequence[Change]], None]
"""Takes the deletions of a deployment before its first change, and raises if the user refuses them."""


def deploy(
    *modules_or_objects: object, client: Operator, confirm: Confirm | None = None, **options: Unpack[DeployOptions]
) -> Deployment:
    """Make the instance of *client* match the declarations; see `serve_bridge.deploy`.

    *confirm* gets the deletions before the first change.
    """
    check_options_of("deploy", options, DEPLOY_DEFAULTS)
    project, prune = options.get("project"), options.get("prune", False)
    if not modules_or_objects:
        raise ConfigError("deploy needs at least one module or declared object, such as 'shop.backends'")
    found = declared_in(*modules_or_objects)
    owner = _default_project(found) if project is None else check_name("project", project)
    declarations = [each for each in found if isinstance(each, Declaration)]
    origin = Origin(owner, time.time())
    # Everything is pickled and read before the first change. An error must not stop a deployment halfway.
    sources = Sources()
    backends = {each.name: each.frozen(owner, origin.time, sources) for each in declarations}
    declared = [_declared(each, backends[each.name]) for each in declarations]
    endpoints = [replace(each, origin=origin) for each in _endpoints(found)]
    order = Order(
        owner,
        traffic=options.get("traffic", False),
        prune=prune,
        force=options.get("force", False),
        take_over=options.get("take_over", False),
    )
    if options.get("dry_run"):
        planned = plan(declared, endpoints, _running(client, backends), order)
        return Deployment(client.name, planned.changes, planned.notes, True, owner)
    key = secrets.token_hex(8)
    with client.holding(Operation.HOLD_DEPLOYMENT, owner, key):
        before: UnfinishedDeployment | None = client.operate(
            Operation.BEGIN_DEPLOYMENT, owner, key, TURN_S, timeout_s=TURN_S + OPERATION_S
        )
        created = before.created if before is not None else frozenset()
        planned = plan(declared, endpoints, _running(client, backends), replace(order, unfinished=created))
        if planned.deletions:
            (confirm if confirm is not None and prune else _log_deletions)(planned.deletions)
        created |= {change.title.partition(" ")[2] for change in planned.changes if change.kind.startswith("create")}
        make(client, planned, backends, UnfinishedDeployment(owner, origin.time, created=created))
        for name in planned.moved:
            configure(client, backends[name], BackendConfig())
        if planned.changes or before is not None:
            client.operate(Operation.END_DEPLOYMENT, owner)
    return Deployment(client.name, planned.changes, planned.notes, project=owner)


def _default_project(found: Iterable[Declaration | EndpointDeclaration]) -> str:
    """Return the top package of the first declaration's module; of a script its file's name."""
    first = next(iter(found))
    module = first.code.__module__ if isinstance(first, Declaration) else first.module
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file is not None else module
    return check_name("project", module.partition(".")[0])


def _log_deletions(deletions: Iterable[Change]) -> None:
    for change in deletions:
        _logger.info("%s", change)


def _declared(declaration: Declaration, made: BackendSpec) -> DeclaredBackend:
    origin = made.origin
    assert origin is not None  # `frozen` gives one
    return DeclaredBackend(
        made.name, declaration.endpoint, origin.fingerprint, declaration.config, made.is_async, origin.search_path
    )


def _endpoints(found: Iterable[Declaration | EndpointDeclaration]) -> list[DeclaredEndpoint]:
    """Return the declared endpoints, each with the route of its one describing declaration and its first backend."""
    endpoints: dict[str, DeclaredEndpoint] = {}
    for each in found:
        if isinstance(each, Declaration):
            own = DeclaredEndpoint(each.endpoint, each.name, each.route, each.methods, each.timeout_s)
            first = endpoints.setdefault(each.endpoint, own)
            if each.describes_endpoint:
                endpoints[each.endpoint] = replace(own, backend=first.backend)
        else:  # endpoints come after the backends
            behind = endpoints.get(each.name)
            if behind is None:
                behind = DeclaredEndpoint(each.name, next(iter(each.traffic or {})), None, DEFAULT_METHODS)
            if each.describes_endpoint:
                methods = behind.methods if each.methods is None else each.methods
                behind = replace(behind, route=each.route, methods=methods, timeout_s=each.timeout_s)
            endpoints[each.name] = replace(behind, traffic=each.traffic, shadows=each.shadows)
    return list(endpoints.values())


def _running(client: Operator, declared: Iterable[str]) -> Running:
    status: InstanceStatus = client.operate(Operation.STATUS)
    configs: dict[str, BackendConfig] = client.operate(Operation.LIST_BACKENDS)
    known = set(declared)
    return Running(
        {
            name: RunningBackend(
                _opened(configs[name]) if name in known else configs[name],
                each.fingerprint,
                frozenset(each.declared),
                each.owner,
                tuple(each.search_path),
            )
            for name, each in status.backends.items()
            if name in configs
        },
        {
            name: RunningEndpoint(
                each.route,
                tuple(each.methods),
                TrafficPolicy(each.traffic, each.shadows),
                each.owner,
                each.timeout_s,
            )
            for name, each in status.endpoints.items()
        },
    )


def _opened(config: BackendConfig) -> BackendConfig:
    try:
        return opened_config(config)
    except SerializationError:  # its class is missing here, so it differs from the declared value
        return config
