"""The values compared by a plan: the running backends and endpoints, and the declared backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.traffic import TrafficPolicy


@dataclass(frozen=True)
class RunningBackend:
    """A running backend.

    Attributes:
        config: Its options, defaults filled in.
        fingerprint: Fingerprint of its deployed code; "": the code was given by hand.
        declared: Names of the options set by the last deployment.
        owner: The project of its deployment; None: it was made by hand.
        search_path: Directories from which its replicas import the code.
    """

    config: BackendConfig
    fingerprint: str = ""
    declared: frozenset[str] = frozenset()
    owner: str | None = None
    search_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunningEndpoint:
    """A running endpoint.

    Attributes:
        route: Its path over HTTP; None: it has none.
        methods: Its HTTP methods.
        traffic: Its split and its shadows.
        owner: The project of its deployment; None: it was made by hand.
        timeout_s: Time limit of a request in seconds; None: only callers have a limit.
    """

    route: str | None
    methods: tuple[str, ...]
    traffic: TrafficPolicy
    owner: str | None = None
    timeout_s: float | None = None


@dataclass(frozen=True)
class Running:
    """The running backends and endpoints of an instance, by name."""

    backends: Mapping[str, RunningBackend] = field(default_factory=dict)
    endpoints: Mapping[str, RunningEndpoint] = field(default_factory=dict)


@dataclass(frozen=True)
class DeclaredBackend:
    """A declared backend.

    Attributes:
        name, endpoint: Its name, and its endpoint's.
        fingerprint: Fingerprint of its code.
        config: The declared options. Other options stay.
        is_async: Decides the default of `max_concurrent_queries`.
        search_path: Directories from which replicas import its code.
    """

    name: str
    endpoint: str
    fingerprint: str
    config: BackendConfig
    is_async: bool
    search_path: tuple[str, ...] = ()
