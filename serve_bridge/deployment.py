"""From what is declared to what runs: one instance is brought there by rolling updates.

Rule 1: `plan` decides, and is pure: the same declarations and the same instance give the same changes, and after these
        none.
Rule 2: what operators set stays: an existing split or shadow, and options that no declaration names.
Rule 3: a change is one step of the controller, done whole or not at all. The first one that fails ends a deployment;
        those before it stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal

from serve_bridge.arguments import opened_config, packed_config
from serve_bridge.client import Client
from serve_bridge.config import BackendConfig
from serve_bridge.declaration import Declaration, declared_in
from serve_bridge.errors import ConfigError, DeploymentError, SerializationError, shown
from serve_bridge.fingerprint import digest
from serve_bridge.management import OPERATION_S
from serve_bridge.wanted import Backend, DeclaredEndpoint

__all__ = ["Change", "Deployment", "deploy", "plan"]

Kind = Literal[
    "create backend",
    "update backend",
    "configure backend",
    "delete backend",
    "create endpoint",
    "change endpoint",
    "delete endpoint",
]
_DEFAULTS: Final = BackendConfig()


@dataclass(frozen=True)
class Change:
    """One change of an instance.

    Attributes:
        kind: What is done to what: "create backend", "update backend" (its code, by a rolling update), "configure
            backend" (its options only), "delete backend", "create endpoint", "change endpoint", "delete endpoint".
        name: Of the backend or endpoint.
        reason: Why, for people.
    """

    kind: Kind
    name: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Of an update or a configuration: the options that change."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"


@dataclass(frozen=True)
class Deployment:
    """What a deployment has changed.

    Attributes:
        instance: Name of the instance.
        changes: In the order in which they were made; empty: it was as declared already.
        notes: What somebody should look at.
        dry_run: Whether the changes were only planned.
    """

    instance: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        changes = [{"kind": each.kind, "name": each.name, "reason": each.reason} for each in self.changes]
        return {**asdict(replace(self, changes=())), "changes": changes, "notes": list(self.notes)}

    def __str__(self) -> str:
        count = len(self.changes)
        changes = f"{count} change{'s' if count != 1 else ''}" if count else "as declared, nothing to change"
        lines = [f"instance {self.instance}: {changes}{' to make; none was made' if self.dry_run and count else ''}"]
        kinds = max((len(each.kind) for each in self.changes), default=0)
        names = max((len(each.name) for each in self.changes), default=0)
        lines += [f"  {each.kind:{kinds}}  {each.name:{names}}  {each.reason}" for each in self.changes]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class RunningBackend:
    """A backend as it is.

    Attributes:
        config: Its options, defaults filled in.
        fingerprint: Of the deployment that started its code; "": it was given by hand.
        declared: Names of the options that the last deployment set.
    """

    config: BackendConfig
    fingerprint: str = ""
    declared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RunningEndpoint:
    """An endpoint as it is.

    Attributes:
        route: Where it is over HTTP.
        methods: Its HTTP methods.
        timeout_s: Seconds that a request to it may take; None: as its sender has it.
        backends: Those that its split and its shadows name.
        declared: Whether a deployment made it.
    """

    route: str | None
    methods: tuple[str, ...]
    backends: frozenset[str]
    declared: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True)
class Running:
    """What an instance runs, by name."""

    backends: Mapping[str, RunningBackend] = field(default_factory=dict)
    endpoints: Mapping[str, RunningEndpoint] = field(default_factory=dict)


@dataclass(frozen=True)
class DeclaredBackend:
    """A backend as a declaration wants it.

    Attributes:
        name, endpoint: Its name, and its endpoint's.
        fingerprint: Of its code.
        config: The options that it names; others are left alone.
        is_async: Decides the default of `max_concurrent_queries`.
    """

    name: str
    endpoint: str
    fingerprint: str
    config: BackendConfig
    is_async: bool


def plan(
    backends: Sequence[DeclaredBackend],
    endpoints: Sequence[DeclaredEndpoint],
    running: Running,
    *,
    prune: bool = False,
    force: bool = False,
) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """Return the changes that bring *running* to what is declared, in their order, and notes.

    Raises:
        ConfigError: A declared route belongs to an endpoint that is not declared.
    """
    withdrawn = [name for name, each in running.endpoints.items() if each.declared] if prune else []
    withdrawn = [name for name in withdrawn if name not in {each.name for each in endpoints}]
    _check_routes(endpoints, {n: e for n, e in running.endpoints.items() if n not in withdrawn})
    first = {each.name: each.backend for each in endpoints if each.name not in running.endpoints}
    started = [change for each in backends if (change := _backend_change(each, first, running, force)) is not None]
    routed = [change for each in endpoints if (change := _endpoint_change(each, running)) is not None]
    routed = [Change("delete endpoint", name, "no longer declared") for name in withdrawn] + routed
    ended, notes = _pruned({each.name for each in backends}, withdrawn, running) if prune else ([], [])
    return (*started, *routed, *ended), tuple(notes)


def _backend_change(
    declared: DeclaredBackend, first: Mapping[str, str], running: Running, force: bool
) -> Change | None:
    old = running.backends.get(declared.name)
    if old is None:
        waits = first.get(declared.endpoint) != declared.name
        reason = f"new; endpoint {declared.endpoint} sends it nothing until its traffic is set" if waits else "new"
        return Change("create backend", declared.name, reason)
    wanted = _wanted_options(declared, old)
    changed = {name: value for name, (was, value) in wanted.items() if not _same(was, value)}
    if force or old.fingerprint != declared.fingerprint:
        why = "its code or what it starts with has changed"
        why = "its code was given by hand" if not old.fingerprint else why if not force else "forced"
        return Change("update backend", declared.name, why, {name: value for name, (_, value) in wanted.items()})
    if not changed:
        return None
    reason = ", ".join(f"{name}: {_brief(wanted[name][0])} -> {_brief(value)}" for name, value in changed.items())
    return Change("configure backend", declared.name, reason, changed)


def _wanted_options(declared: DeclaredBackend, old: RunningBackend) -> dict[str, tuple[Any, Any]]:
    """Return what the options that declarations decide are and should be.

    One that was declared by the last deployment, and is not any more, goes back to its default.
    """
    target = old.config.merged({name: getattr(_DEFAULTS, name) for name in old.declared}).merged(declared.config)
    target = target.resolved(declared.is_async)
    names = [each.name for each in fields(BackendConfig) if each.name in declared.config.given | old.declared]
    return {name: (getattr(old.config, name), getattr(target, name)) for name in names}


def _same(was: Any, value: Any) -> bool:
    # Not `==`: a `user_config` may hold arrays, or objects that are equal to nothing but themselves.
    return was is value or digest(was) == digest(value)


def _brief(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else "..."


def _endpoint_change(declared: DeclaredEndpoint, running: Running) -> Change | None:
    old = running.endpoints.get(declared.name)
    where = _where(declared)
    if old is None:
        return Change("create endpoint", declared.name, f"{where}, all traffic to {declared.backend}")
    if (old.route, old.methods, old.timeout_s) != (declared.route, declared.methods, declared.timeout_s):
        return Change("change endpoint", declared.name, f"{_where(old)} -> {where}; its traffic stays")
    if not old.declared:
        return Change("change endpoint", declared.name, "made by hand, declared from now on; its traffic stays")
    return None


def _where(endpoint: DeclaredEndpoint | RunningEndpoint) -> str:
    where = f"{' '.join(endpoint.methods)} {endpoint.route}" if endpoint.route is not None else "no route"
    return where if endpoint.timeout_s is None else f"{where}, at most {endpoint.timeout_s:g} s"


def _check_routes(endpoints: Sequence[DeclaredEndpoint], staying: Mapping[str, RunningEndpoint]) -> None:
    declared = {each.name for each in endpoints}
    for each in endpoints:
        for name, other in staying.items():
            if each.route is not None and other.route == each.route and name not in declared:
                raise ConfigError(
                    f"route {each.route!r} of endpoint {each.name!r} belongs to endpoint {name!r} already, which is "
                    "not declared; delete that first, or let a deployment prune it if one made it"
                )


def _pruned(declared: set[str], withdrawn: Iterable[str], running: Running) -> tuple[list[Change], list[str]]:
    """Return the deletions of backends that deployments have made and nobody declares, and why others have to stay."""
    gone = set(withdrawn)
    ended, notes = [], []
    for name, each in running.backends.items():
        if name in declared or not each.fingerprint:
            continue
        using = [e for e, endpoint in running.endpoints.items() if name in endpoint.backends and e not in gone]
        if using:
            notes.append(
                f"backend {name} is no longer declared, but stays while it gets traffic or copies of it; "
                f"change the traffic of: {', '.join(using)}"
            )
        else:
            ended.append(Change("delete backend", name, "no longer declared"))
    return ended, notes


# The steps


def deploy(
    *what: object, client: Client, prune: bool = False, force: bool = False, dry_run: bool = False
) -> Deployment:
    """Bring *client*'s instance to what is declared; see `serve_bridge.deploy`."""
    declarations = declared_in(*what)
    # All of them before the first change: what cannot be pickled or read must not stop a deployment half-way.
    backends = {each.name: each.frozen() for each in declarations}
    declared = [
        DeclaredBackend(each.name, each.endpoint, backends[each.name].fingerprint, each.config, made.is_async)
        for each, made in zip(declarations, backends.values(), strict=True)
    ]
    endpoints = _endpoints(declarations)
    changes, notes = plan(declared, endpoints, _running(client, backends), prune=prune, force=force)
    if not dry_run:
        _make(client, changes, backends, endpoints)
    return Deployment(client.name, changes, notes, dry_run)


def _endpoints(declarations: Iterable[Declaration]) -> list[DeclaredEndpoint]:
    """Return the declared endpoints: each on the first of its backends, with what one of them says of it."""
    found: dict[str, DeclaredEndpoint] = {}
    for each in declarations:
        own = DeclaredEndpoint(each.endpoint, each.name, each.route, each.methods, each.timeout_s)
        first = found.setdefault(each.endpoint, own)
        if each.describes_endpoint:
            found[each.endpoint] = replace(own, backend=first.backend)
    return list(found.values())


def _running(client: Client, declared: Iterable[str]) -> Running:
    status, configs = client.status(), client.operate("list_backends")
    known = set(declared)
    return Running(
        {
            name: RunningBackend(
                _opened(configs[name]) if name in known else configs[name],
                each["fingerprint"],
                frozenset(each["declared"]),
            )
            for name, each in status["backends"].items()
            if name in configs
        },
        {
            name: RunningEndpoint(
                each["route"],
                tuple(each["methods"]),
                frozenset([*each["traffic"], *each["shadows"]]),
                each["declared"],
                each["timeout_s"],
            )
            for name, each in status["endpoints"].items()
        },
    )


def _opened(config: BackendConfig) -> BackendConfig:
    try:
        return opened_config(config)
    except SerializationError:  # of a class that this process does not have, so it differs from what is declared
        return config


def _make(
    client: Client, changes: Sequence[Change], backends: Mapping[str, Backend], endpoints: Iterable[DeclaredEndpoint]
) -> None:
    """Make *changes*, one step after another.

    Raises:
        DeploymentError: A step failed; it has changed nothing.
    """
    done: list[Change] = []
    for step, make in _steps(client, changes, backends, endpoints):
        try:
            make()
        except Exception as error:  # whatever it is, the user must learn how far the deployment has come
            left = [change for change in changes if change not in done and change not in step]
            raise DeploymentError(
                ", ".join(f"{change.kind} {change.name}" for change in step),
                str(error) or type(error).__name__,
                tuple(f"{change.kind} {change.name}" for change in done),
                tuple(f"{change.kind} {change.name}" for change in left),
            ) from error
        done += step


def _steps(
    client: Client, changes: Sequence[Change], backends: Mapping[str, Backend], endpoints: Iterable[DeclaredEndpoint]
) -> Iterator[tuple[list[Change], Callable[[], object]]]:
    """Yield the changes of each step, and what makes them. All endpoints are one step: they may exchange routes."""
    for of_endpoints, group in itertools.groupby(changes, key=lambda change: change.kind.endswith("endpoint")):
        step = list(group)
        if of_endpoints:
            withdrawn = [change.name for change in step if change.kind == "delete endpoint"]
            names = {change.name for change in step}
            declared = [each for each in endpoints if each.name in names]
            yield step, lambda declared=declared, gone=withdrawn: client.operate("declare_endpoints", declared, gone)  # type: ignore[misc]  # mypy infers no type for a lambda's defaults
        else:
            for change in step:
                yield [change], lambda change=change: _make_backend(client, change, backends.get(change.name))  # type: ignore[misc]  # as above


def _make_backend(client: Client, change: Change, backend: Backend | None) -> None:
    if backend is None:
        client.delete_backend(change.name)
    elif change.kind == "create backend":
        client.operate("create_backend", backend, timeout_s=backend.config.start_timeout_s + OPERATION_S)
    else:
        options = packed_config(BackendConfig(**change.options))
        longest = client.get_backend_config(change.name).merged(options)
        timeout_s = longest.start_timeout_s + longest.graceful_shutdown_timeout_s + OPERATION_S
        if change.kind == "configure backend":
            client.operate("update_backend_config", change.name, options, backend.declared, timeout_s=timeout_s)
        else:
            given = (change.name, backend.code, backend.is_async, options, backend.actor_options)
            origin = (backend.fingerprint, backend.declared, backend.is_application)
            client.operate("update_backend", *given, *origin, timeout_s=timeout_s)
