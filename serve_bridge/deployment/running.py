"""The values that a plan compares: the backends and endpoints that run, and the declared backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.traffic import TrafficPolicy


@dataclass(frozen=True)
class RunningBackend:
    """A backend as it is.

    Attributes:
        config: Its options, defaults filled in.
        fingerprint: Of the deployment that started its code; "": its code was given by hand.
        declared: Names of the options that the last deployment set.
        owner: The project that deployed it; None: it was made by hand.
        search_path: Directories from which its replicas import the code.
    """

    config: BackendConfig
    fingerprint: str = ""
    declared: frozenset[str] = frozenset()
    owner: str | None = None
    search_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunningEndpoint:
    """An endpoint as it is.

    Attributes:
        route: Its path over HTTP; None: it has none.
        methods: Its HTTP methods.
        traffic: Its split and its shadows.
        owner: The project that deployed it; None: it was made by hand.
        timeout_s: Seconds that a request to it may take; None: as its sender has it.
    """

    route: str | None
    methods: tuple[str, ...]
    traffic: TrafficPolicy
    owner: str | None = None
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
        search_path: Directories from which replicas import its code.
    """

    name: str
    endpoint: str
    fingerprint: str
    config: BackendConfig
    is_async: bool
    search_path: tuple[str, ...] = ()
