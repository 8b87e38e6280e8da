"""The steps of a plan: each is one operation of the controller, made whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.deployment.change import Change, Plan
from serve_bridge.deployment.result import Interrupted
from serve_bridge.errors import BackendNotFound, DeploymentError
from serve_bridge.instance.operations import Operation
from serve_bridge.management import time_limits
from serve_bridge.management.code_update import update_code
from serve_bridge.management.operator import Operator
from serve_bridge.specs import BackendSpec, BackendUpdate, UnfinishedDeployment, packed_config


def make(
    client: Operator, planned: Plan, backends: Mapping[str, BackendSpec], unfinished: UnfinishedDeployment
) -> None:
    """Make the changes, one step after another; the instance knows how far *unfinished* has come.

    Raises:
        DeploymentError: A step failed; it has changed nothing.
        Interrupted: The user interrupted the deployment.
    """
    done: list[str] = []
    for step, make in _steps(client, planned, backends):
        titles = [change.title for change in step]
        left = [change.title for change in planned.changes[len(done) + len(step) :]]
        now = replace(unfinished, begun=tuple(titles), left=tuple(left))
        begun = False
        try:
            client.operate(Operation.NOTE_DEPLOYMENT, now)
            begun = True
            make()
        except KeyboardInterrupt:
            going, rest = (titles, left) if begun else ([], titles + left)
            raise Interrupted(unfinished.project, done, going, rest) from None
        except Exception as error:  # the user must learn about the finished changes after any error
            why = str(error) or type(error).__name__
            with contextlib.suppress(Exception):  # the user needs the first error, not this one
                client.operate(Operation.NOTE_DEPLOYMENT, replace(now, failure=why.splitlines()[0]))  # no traceback
            raise DeploymentError(", ".join(titles), why, done, left) from error
        done += titles


def _steps(
    client: Operator, planned: Plan, backends: Mapping[str, BackendSpec]
) -> Iterator[tuple[list[Change], Callable[[], object]]]:
    """Yield the changes of each step, and the function for them. All endpoints are one step: they may swap routes."""
    for of_endpoints, group in itertools.groupby(planned.changes, key=lambda change: change.kind.endswith("endpoint")):
        step = list(group)
        if of_endpoints:
            withdrawn = [*planned.moved_endpoints]
            withdrawn += [change.name for change in step if change.kind == "delete endpoint"]
            names = {change.name for change in step}
            declared = [each for each in planned.endpoints if each.name in names]
            yield step, partial(client.operate, Operation.DECLARE_ENDPOINTS, declared, withdrawn)
        else:
            for change in step:
                yield [change], partial(_make_backend, client, change, backends.get(change.name))


def _make_backend(client: Operator, change: Change, backend: BackendSpec | None) -> None:
    if backend is None:
        timeout_s = time_limits.to_delete(_running_config(client, change.name))
        client.operate(Operation.DELETE_BACKEND, change.name, False, timeout_s=timeout_s)
    elif change.kind == "create backend":
        client.operate(Operation.CREATE_BACKEND, backend, timeout_s=time_limits.to_create(backend.config))
    else:
        options = packed_config(BackendConfig(**change.options))
        if change.kind == "configure backend":
            configure(client, backend, options)
        else:
            longest = _running_config(client, change.name).merged(options)
            update = BackendUpdate(
                name=change.name,
                code=backend.code,
                is_async=backend.is_async,
                is_application=backend.is_application,
                config=options,
                actor_options=backend.actor_options,
                origin=backend.origin,
            )
            update_code(client, update, time_limits.to_update(longest))


def configure(client: Operator, backend: BackendSpec, options: BackendConfig) -> None:
    """Change *options* of a running backend, and where its replicas find its code."""
    new = _running_config(client, backend.name).merged(options)
    timeout_s = time_limits.to_configure(new)
    client.operate(
        Operation.UPDATE_BACKEND_CONFIG, backend.name, options, backend.origin, backend.code, timeout_s=timeout_s
    )


def _running_config(client: Operator, name: str) -> BackendConfig:
    """Return the options of a running backend, with a packed `user_config`: this process may lack its classes."""
    configs: dict[str, BackendConfig] = client.operate(Operation.LIST_BACKENDS)
    if name not in configs:
        raise BackendNotFound(name, tuple(configs))
    return configs[name]
