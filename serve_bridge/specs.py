"""What an instance, its replicas and its proxies are started from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.errors import ConfigError, SerializationError
from serve_bridge.http.methods import ANY_METHOD
from serve_bridge.instance.instance import Instance
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.opaque import Opaque


@dataclass(frozen=True)
class InstanceSpec:
    """What an instance is started from.

    Attributes:
        name, generation: Which instance, and which start of it.
        runtime: "ray" or "local".
        directory: Where its sockets and its file are, on the node it is started on.
        detached: Whether it outlives the process that started it.
        tcp_host: Address to listen on for other nodes; None: unix sockets only.
        http: Where proxies listen, and their limits.
        node: The node it is started on; empty with the local runtime.
    """

    name: str
    generation: str
    runtime: str
    directory: str
    detached: bool
    tcp_host: str | None
    http: HTTPOptions
    node: str = ""


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica is started from.

    Attributes:
        replica, backend: Its id, and the backend it is one of.
        instance: The instance it belongs to, with the keys of Python code only.
        directory: Where its unix socket goes, on the controller's node; on another node the runtime chooses.
        tcp_host: Address to listen on for other nodes; None: no TCP.
        code: What `frozen_code.freeze_code` returned.
        config: The backend's options, resolved.
    """

    replica: str
    backend: str
    instance: Instance
    directory: str
    tcp_host: str | None
    code: bytes
    config: BackendConfig


@dataclass(frozen=True)
class ProxySpec:
    """One proxy.

    Attributes:
        proxy: Its id, unique in the instance.
        node: The node it belongs on.
        generation: The instance it belongs to.
        controller: Where the controller publishes the routing table.
        directory: Where its unix socket, for the controller, goes; on another node the runtime chooses.
        tcp_host: Address to listen on for the controller of another node; None: no TCP.
        http: Where it listens for the world, and its limits.
    """

    proxy: str
    node: str
    generation: str
    controller: SocketAddress
    directory: str
    tcp_host: str | None
    http: HTTPOptions


@dataclass(frozen=True)
class Origin:
    """The deployment that a backend or an endpoint is from.

    Attributes:
        owner: The project that deploys it.
        time: When that deployment began, in seconds since the epoch, by the clock of the process that deployed.
        version: The `version` of a backend's declaration; "": it has none.
        fingerprint: Of the code that the deployment started; "": the code was given by hand since.
        declared: Names of the options that the deployment set.
        search_path: Directories from which replicas import the code.
    """

    owner: str
    time: float = 0.0
    version: str = ""
    fingerprint: str = ""
    declared: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class BackendSpec:
    """One backend as it should be.

    Attributes:
        name: Its name.
        code: What `frozen_code.freeze_code` returned.
        is_async: Decides the default of `max_concurrent_queries`.
        config: Its options as given; `user_config` is an `Opaque`, or None.
        actor_options: Its Ray actor options; the controller does not look inside.
        revision: Grows with every change of the code.
        origin: The deployment that it is from; None: it was made by hand.
        is_application: Whether its code is an ASGI or WSGI application; it stays so.
    """

    name: str
    code: bytes
    is_async: bool
    config: BackendConfig
    actor_options: Opaque
    revision: int = 1
    origin: Origin | None = None
    is_application: bool = False

    @property
    def resolved(self) -> BackendConfig:
        """Its options with the defaults that depend on the code filled in."""
        return self.config.resolved(self.is_async)

    def check_same_kind(self, is_application: bool) -> None:
        """Check that an update may bring code of this kind: the endpoints before it are made for the one that it has.

        Raises:
            ConfigError: It may not.
        """
        if is_application != self.is_application:
            raise ConfigError(
                f"backend {self.name!r} is an application, and an update cannot make it other code; create another"
                if self.is_application
                else f"backend {self.name!r} is a function or class; an application needs a backend of its own"
            )

    def updated(self, update: BackendUpdate) -> BackendSpec:
        """Return its next revision, with the code of *update* and the options that *update* gives.

        If the update has no origin, the code was given by hand. The project that deployed the backend still owns it.
        """
        origin = update.origin
        if origin is None and self.origin is not None:
            origin = replace(self.origin, version="", fingerprint="", declared=(), search_path=())
        return replace(
            self,
            code=update.code,
            is_async=update.is_async,
            revision=self.revision + 1,
            config=self.config if update.config is None else self.config.merged(update.config),
            actor_options=update.actor_options or self.actor_options,
            origin=origin,
        )


@dataclass(frozen=True, kw_only=True)
class BackendUpdate:
    """New code of a backend, with the options that change with it.

    Attributes:
        name: Name of the backend.
        code: What `frozen_code.freeze_code` returned.
        is_async, is_application: As those of `BackendSpec`.
        config: The options that change; None: no option changes.
        actor_options: The new Ray actor options; None: they stay.
        origin: The deployment that makes the update; None: the update is made by hand.
    """

    name: str
    code: bytes
    is_async: bool
    is_application: bool
    config: BackendConfig | None = None
    actor_options: Opaque | None = None
    origin: Origin | None = None


@dataclass(frozen=True)
class EndpointSpec:
    """One endpoint as it should be.

    Attributes:
        name: Its name.
        route: Where it is over HTTP; None: Python callers only.
        methods: HTTP methods.
        policy: Its traffic.
        origin: The deployment that it is from; None: it was made by hand.
        timeout_s: Seconds that a request to it may take; None: as its sender has it.
    """

    name: str
    route: str | None
    methods: tuple[str, ...]
    policy: TrafficPolicy
    origin: Origin | None = None
    timeout_s: float | None = None

    @property
    def mount(self) -> bool:
        """Whether it is over applications; all backends of its traffic are."""
        return self.methods == ANY_METHOD


@dataclass(frozen=True)
class DeclaredEndpoint:
    """One endpoint as a deployment wants it.

    Attributes:
        name: Its name.
        backend: The backend that gets all its traffic if it does not exist yet and *traffic* is None.
        route: Where it is over HTTP; None: Python callers only.
        methods: HTTP methods.
        timeout_s: Seconds that a request to it may take; None: as its sender has it.
        traffic: Weight of each backend; None: an existing endpoint keeps its split.
        shadows: Share of the requests that each of these backends gets a copy of; None: an existing endpoint keeps
            its shadows.
        origin: The deployment.
    """

    name: str
    backend: str
    route: str | None
    methods: tuple[str, ...]
    timeout_s: float | None = None
    traffic: Mapping[str, float] | None = None
    shadows: Mapping[str, float] | None = None
    origin: Origin | None = None

    def policy_after(self, old: TrafficPolicy | None) -> TrafficPolicy:
        """Return the traffic that the endpoint has after the deployment; *old* is the one before."""
        weights = self.traffic or ({self.backend: 1.0} if old is None else old.weights)
        shadows = ({} if old is None else old.shadows) if self.shadows is None else self.shadows
        return TrafficPolicy(weights, shadows)


@dataclass(frozen=True)
class UnfinishedDeployment:
    """A deployment that has not ended: it runs, was interrupted, or stopped at a change that failed.

    Attributes:
        project: Its owner.
        time: When it began, in seconds since the epoch.
        begun: The changes that had begun last; the instance completes those of a deployment that was interrupted.
        left: The changes that had not begun.
        created: What it, or an unfinished deployment before it, creates: "backend b", "endpoint e".
        failure: Why its change failed; "": none has.
    """

    project: str
    time: float
    begun: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    created: frozenset[str] = frozenset()
    failure: str = ""


def packed_config(config: BackendConfig) -> BackendConfig:
    """Return *config* with its `user_config` packed, so that the controller need not know its classes."""
    if config.user_config is None:
        return config
    return config.merged({"user_config": packed("user_config", config.user_config)})


def opened_config(config: BackendConfig) -> BackendConfig:
    """Return a config of the controller's with its `user_config` as the user gave it."""
    value = config.user_config
    return config.merged({"user_config": value.open()}) if isinstance(value, Opaque) else config


def packed(name: str, value: object) -> Opaque:
    """Return *value* packed, so that the controller need not know its classes.

    Raises:
        SerializationError: It has no pickled form; the message begins with *name*.
    """
    try:
        return Opaque(value)
    except SerializationError as error:
        raise SerializationError(f"{name}: {error}") from error
