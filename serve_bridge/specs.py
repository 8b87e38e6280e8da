"""The values that start instances, replicas, proxies, backends and endpoints; all frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.config.network_options import NO_NETWORK, NetworkOptions
from serve_bridge.errors import ConfigError, SerializationError
from serve_bridge.http.methods import ANY_METHOD
from serve_bridge.instance.instance import Instance
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.opaque import Opaque


@dataclass(frozen=True)
class InstanceSpec:
    """The options of an instance.

    Attributes:
        name, generation: Its name, and the id of this start of the name.
        runtime: "ray" or "local".
        directory: Directory of its sockets and its file, on the node of its start.
        detached: Whether it outlives the process of its starter.
        tcp_host: Address on which to listen for other nodes; None: only unix sockets.
        http: The options of its proxies.
        node: The node of its start; "" with the local runtime.
        state: Directory in which it keeps its state, on the node of its controller; None: it keeps none.
        fresh: Whether it begins without the state of a former instance in that directory.
        network: Where its processes listen for other hosts.
        keeps_keys: Whether its secret was kept in files, for the next start of its name.
    """

    name: str
    generation: str
    runtime: str
    directory: str
    detached: bool
    tcp_host: str | None
    http: HTTPOptions
    node: str = ""
    state: str | None = None
    fresh: bool = False
    network: NetworkOptions = NO_NETWORK
    keeps_keys: bool = False


@dataclass(frozen=True)
class ReplicaSpec:
    """One replica.

    Attributes:
        replica, backend: Its id, and the name of its backend.
        instance: Its instance, with the keys of a replica only.
        directory: Directory of its unix socket on the node of the controller. On another node the runtime chooses one.
        tcp_host: Address on which to listen for other nodes; None: no TCP.
        code: The result of `frozen_code.freeze_code`.
        config: The options of the backend, with the defaults filled in.
        network: Where the processes of the instance listen for other hosts.
    """

    replica: str
    backend: str
    instance: Instance
    directory: str
    tcp_host: str | None
    code: bytes
    config: BackendConfig
    network: NetworkOptions = NO_NETWORK


@dataclass(frozen=True)
class ProxySpec:
    """One proxy.

    Attributes:
        proxy: Its id, unique in the instance.
        node: Its node.
        generation: Generation of its instance.
        controller: Address of the controller, which publishes the routing table.
        directory: Directory of its unix socket for the controller. On another node the runtime chooses one.
        tcp_host: Address on which to listen for the controller of another node; None: no TCP.
        http: Its HTTP address and its limits.
        network: Where the processes of the instance listen for other hosts.
    """

    proxy: str
    node: str
    generation: str
    controller: SocketAddress
    directory: str
    tcp_host: str | None
    http: HTTPOptions
    network: NetworkOptions = NO_NETWORK


@dataclass(frozen=True)
class Origin:
    """The deployment of a backend or an endpoint.

    Attributes:
        owner: The project.
        time: When the deployment began, in seconds since the epoch, by the clock of the deploying process.
        version: The `version` in the declaration of a backend; "": it has none.
        fingerprint: Fingerprint of the deployed code; "": the code was replaced by hand later.
        declared: Names of the options in the declaration.
        search_path: Directories from which replicas import the code.
    """

    owner: str
    time: float = 0.0
    version: str = ""
    fingerprint: str = ""
    declared: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnfinishedUpdate:
    """An update in bounded room that runs, or whose replicas return to the old code.

    Attributes:
        revisions: The revisions of new code whose replicas may still run. Routers use them beside the old ones.
        surge: Upper limit for the running replicas above the wanted number.
        unavailable: Upper limit for the wanted replicas that do not serve.
        wanted: The number of replicas after the update; 0: an earlier version has not noted it.
        origin: The deployment of the new code; None: the update is made by hand.
        failure: Why the update has stopped; "": it runs.
    """

    revisions: tuple[int, ...]
    surge: int
    unavailable: int
    wanted: int = 0
    origin: Origin | None = None
    failure: str = ""


@dataclass(frozen=True)
class BackendSpec:
    """One backend.

    Attributes:
        name: Its name.
        code: The result of `frozen_code.freeze_code`.
        is_async: Whether its code is asynchronous; decides the default of `max_concurrent_queries`.
        config: Its options as given. Its `user_config` is an `Opaque`, or None.
        actor_options: Its Ray actor options, packed.
        revision: Number of its code; it grows with every change of the code.
        origin: Its deployment; None: it was made by hand.
        is_application: Whether its code is an ASGI or WSGI application. An update cannot change this.
        unfinished: Its update in bounded room, until the update is complete or undone; None: there is none.
    """

    name: str
    code: bytes
    is_async: bool
    config: BackendConfig
    actor_options: Opaque
    revision: int = 1
    origin: Origin | None = None
    is_application: bool = False
    unfinished: UnfinishedUpdate | None = None

    @property
    def routed_revisions(self) -> frozenset[int]:
        """The revisions whose replicas serve."""
        return frozenset((self.revision, *(self.unfinished.revisions if self.unfinished is not None else ())))

    @property
    def resolved(self) -> BackendConfig:
        """Its options, with the defaults for its code filled in."""
        return self.config.resolved(self.is_async)

    def check_same_kind(self, is_application: bool) -> None:
        """Check whether an update may bring code of this kind. The endpoints of the backend depend on its kind.

        Raises:
            ConfigError: An application would become other code, or the other way round.
        """
        if is_application != self.is_application:
            raise ConfigError(
                f"backend {self.name!r} is an application, and an update cannot make it other code; create another"
                if self.is_application
                else f"backend {self.name!r} is a function or class; an application needs a backend of its own"
            )

    def updated(self, update: BackendUpdate) -> BackendSpec:
        """Return its next revision, with the code and options of *update*.

        An update without an origin is made by hand. The project of the backend still owns it.
        """
        origin = update.origin
        if origin is None and self.origin is not None:
            origin = replace(self.origin, version="", fingerprint="", declared=(), search_path=())
        return replace(
            self,
            code=update.code,
            is_async=update.is_async,
            revision=max(self.routed_revisions) + 1,
            config=self.config if update.config is None else self.config.merged(update.config),
            actor_options=update.actor_options or self.actor_options,
            origin=origin,
            unfinished=None,
        )


@dataclass(frozen=True, kw_only=True)
class BackendUpdate:
    """New code for a backend, with its new options.

    Attributes:
        name: Name of the backend.
        code: The result of `frozen_code.freeze_code`.
        is_async, is_application: See `BackendSpec`.
        config: The changed options; None: the options stay.
        actor_options: The new Ray actor options; None: they stay.
        origin: The deployment of the update; None: the update is made by hand.
        max_surge, max_unavailable: The room of this update; None: the options of the backend.
    """

    name: str
    code: bytes
    is_async: bool
    is_application: bool
    config: BackendConfig | None = None
    actor_options: Opaque | None = None
    origin: Origin | None = None
    max_surge: int | None = None
    max_unavailable: int | None = None


@dataclass(frozen=True)
class EndpointSpec:
    """One endpoint.

    Attributes:
        name: Its name.
        route: Its path over HTTP; None: only Python callers reach it.
        methods: Its HTTP methods.
        policy: Its traffic.
        origin: Its deployment; None: it was made by hand.
        timeout_s: Upper limit for a request, in seconds; None: only the caller's limit applies.
    """

    name: str
    route: str | None
    methods: tuple[str, ...]
    policy: TrafficPolicy
    origin: Origin | None = None
    timeout_s: float | None = None

    @property
    def mount(self) -> bool:
        """Whether its backends are applications: all are, or none is."""
        return self.methods == ANY_METHOD


@dataclass(frozen=True)
class DeclaredEndpoint:
    """One endpoint in a deployment.

    Attributes:
        name: Its name.
        backend: The backend of all its traffic, if the endpoint is new and *traffic* is None.
        route: Its path over HTTP; None: only Python callers reach it.
        methods: Its HTTP methods.
        timeout_s: Upper limit for a request, in seconds; None: only the caller's limit applies.
        traffic: Weight of each backend; None: an existing endpoint keeps its weights.
        shadows: Share of the requests to copy, for each backend; None: an existing endpoint keeps its shadows.
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
        """Return the traffic of the endpoint after the deployment; *old* is the traffic before it."""
        weights = self.traffic or ({self.backend: 1.0} if old is None else old.weights)
        shadows = ({} if old is None else old.shadows) if self.shadows is None else self.shadows
        return TrafficPolicy(weights, shadows)


@dataclass(frozen=True)
class UnfinishedDeployment:
    """An incomplete deployment: it runs, was interrupted, or stopped at a failed change.

    Attributes:
        project: Its owner.
        time: When it began, in seconds since the epoch.
        begun: The last changes to begin. After an interruption the instance completes them.
        left: The changes after these.
        created: What the project's incomplete deployments create, such as "backend b" and "endpoint e".
        failure: Why a change failed; "": no change has failed.
    """

    project: str
    time: float
    begun: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    created: frozenset[str] = frozenset()
    failure: str = ""


def packed_config(config: BackendConfig) -> BackendConfig:
    """Return *config* with its `user_config` packed, because the controller may lack its classes."""
    if config.user_config is None:
        return config
    return config.merged({"user_config": packed("user_config", config.user_config)})


def opened_config(config: BackendConfig) -> BackendConfig:
    """Return a config of the controller with its `user_config` unpacked."""
    value = config.user_config
    return config.merged({"user_config": value.open()}) if isinstance(value, Opaque) else config


def packed(name: str, value: object) -> Opaque:
    """Return *value* packed, because the controller may lack its classes.

    Raises:
        SerializationError: It has no pickled form; the message begins with *name*.
    """
    if isinstance(value, Opaque):
        return value
    try:
        return Opaque(value)
    except SerializationError as error:
        raise SerializationError(f"{name}: {error}") from error
