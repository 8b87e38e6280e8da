"""What users can set: each option declared once, with its unit, default and check.

Rule 1: a config is immutable and was checked when it was built; no other module checks an option again.
Rule 2: an option with a bad value is a `ConfigError` (a `ValueError`) that names it; what is no config at all
    is a `TypeError`.
Rule 3: no I/O. Whether a host exists or a port is free is found out by whoever binds it.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict

from serve_bridge.config.checks import (
    Check,
    anything,
    file_path,
    flag,
    host_patterns,
    method_names,
    middleware_list,
    networks,
    optional,
    password,
    seconds,
    whole_number,
)
from serve_bridge.errors import ConfigError, nearest, shown

if TYPE_CHECKING:
    from starlette.middleware import Middleware

__all__ = ["BackendConfig", "BackendOptions", "HTTPOptions", "Location", "check_name", "check_ray_actor_options"]

MOST_REPLICAS: Final = 10_000
MOST_REQUESTS: Final = 1_000_000
MOST_BYTES: Final = 2**40
MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Longest message of a WebSocket where nobody has said otherwise."""


class Location(StrEnum):
    """Where proxies run. A member equals its string."""

    HeadOnly = "HeadOnly"
    """One proxy, on the node that called `start`."""
    EveryNode = "EveryNode"
    """One proxy a node, all on the same port."""
    NoServer = "NoServer"
    """No HTTP listener: handles and adapters only."""


Placement = Location | Literal["HeadOnly", "EveryNode", "NoServer"]


def place(name: str, value: Any) -> Location:
    """Accept a `Location`, its string, or None for `NoServer`."""
    if value is None:
        return Location.NoServer
    try:
        return Location(value)
    except ValueError:
        allowed = ", ".join(Location)
        raise ConfigError(f"{name} must be one of {allowed}, got {shown(value)}{nearest(value, Location)}") from None


def option(default: Any, check: Check, *, secret: bool = False) -> Any:
    """Declare one option of a config class: its default and its check; a secret one is in no `repr`."""
    return field(default=default, repr=not secret, metadata={"check": check})


def check_options(config: Any) -> None:
    """Check every option of a config that is being built, and store the values as the checks return them."""
    for each in fields(config):
        value = each.metadata["check"](each.name, getattr(config, each.name))
        object.__setattr__(config, each.name, value)  # it is frozen for everybody else


def check_keys(config_class: type[Any], options: Mapping[Any, object]) -> None:
    """Raise ConfigError if a key of *options* names no option, and suggest the nearest that there is."""
    known = [each.name for each in fields(config_class)]
    for key in options:
        if key not in known:
            raise ConfigError(f"{config_class.__name__} has no option {shown(key)}{nearest(key, known)}")


class BackendOptions(TypedDict, total=False):
    """The options of `BackendConfig` as keyword arguments, for type checkers. A test compares the two."""

    num_replicas: int
    max_concurrent_queries: int | None
    max_batch_size: int | None
    batch_wait_timeout: float
    user_config: Any
    graceful_shutdown_timeout_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    start_timeout_s: float
    max_queued_queries: int
    threads: int
    exposed_methods: Sequence[str] | None


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """How one backend runs. Times are in seconds.

    Attributes:
        num_replicas: Replicas to keep alive, 1 to 10,000.
        max_concurrent_queries: Requests one replica runs at once, over all callers. None: 8 for `def`,
            100 for `async def`.
        max_batch_size: Most requests a batch holds; only for code marked with `accept_batch`. None: one.
        batch_wait_timeout: Longest time a batch waits for more requests, from its first one on.
        user_config: Passed to the backend's `reconfigure` on every replica, after construction and on each
            change. None: no call.
        graceful_shutdown_timeout_s: Time a retiring replica may spend on work it has already accepted.
        health_check_period_s: Time between two health probes of a replica.
        health_check_timeout_s: Time one probe may take before it counts as failed.
        start_timeout_s: Time a replica has from launch to ready, construction included.
        max_queued_queries: Requests to this backend that may wait in one calling process. One more raises
            `BackendOverloaded` at once; 0: none may wait.
        threads: Threads of a replica for `def` code. 1 runs one request after another.
        exposed_methods: Names of the methods that can be called beside `__call__`. None: the public ones.

    Raises:
        ConfigError: An option is out of range or of the wrong type; the message names it. It is a ValueError.
    """

    num_replicas: int = option(1, whole_number(1, MOST_REPLICAS))
    max_concurrent_queries: int | None = option(None, optional(whole_number(1, MOST_REQUESTS)))
    max_batch_size: int | None = option(None, optional(whole_number(1, MOST_REQUESTS)))
    batch_wait_timeout: float = option(0.0, seconds(zero=True))
    user_config: Any = option(None, anything)
    graceful_shutdown_timeout_s: float = option(20.0, seconds(zero=True))
    health_check_period_s: float = option(1.0, seconds())
    health_check_timeout_s: float = option(10.0, seconds())
    start_timeout_s: float = option(60.0, seconds())
    max_queued_queries: int = option(1000, whole_number(0, MOST_REQUESTS))
    threads: int = option(1, whole_number(1, MOST_REPLICAS))
    exposed_methods: Sequence[str] | None = option(None, optional(method_names))

    def __new__(cls, **given: object) -> Self:
        """Check the names of the options, and remember which were passed; `__init__` sees them all alike."""
        check_keys(cls, given)
        self = super().__new__(cls)
        object.__setattr__(self, "_given", frozenset(given))
        return self

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def of(cls, value: BackendConfig | Mapping[str, Any] | None) -> BackendConfig:
        """Return *value* as a config: itself, built from a mapping of options, or all defaults for None.

        Raises:
            ConfigError: A key names no option, or an option's value is bad.
            TypeError: *value* is neither.
        """
        if isinstance(value, BackendConfig):
            return value
        return cls(**options_of(cls, value))

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that were passed, here or in an update; no part of equality."""
        given: frozenset[str] = self.__dict__["_given"]
        return given

    def merged(self, update: BackendConfig | Mapping[str, Any]) -> BackendConfig:
        """Return this config with the options changed that *update* was given, and no others.

        Raises:
            ConfigError: A key of *update* names no option, or an option's value is bad.
            TypeError: *update* is neither a config nor a mapping.
        """
        if update is None:
            raise TypeError("a config update must be a BackendConfig or a dict, got None")
        update = BackendConfig.of(update)
        return self._with({name: getattr(update, name) for name in update.given}, given=update.given)

    def resolved(self, is_async: bool) -> BackendConfig:
        """Return this config with `max_concurrent_queries` filled in: 8 for `def`, 100 for `async def`."""
        if self.max_concurrent_queries is not None:
            return self
        return self._with({"max_concurrent_queries": 100 if is_async else 8}, given=())

    def _with(self, changes: Mapping[str, Any], *, given: Iterable[str]) -> BackendConfig:
        """Return a copy with some options changed, which counts those named in *given* as passed too."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        copy = BackendConfig(**{**values, **changes})
        object.__setattr__(copy, "_given", self.given.union(given))
        return copy


@dataclass(frozen=True, kw_only=True)
class HTTPOptions:
    """Where the proxy listens and what it bears. Times are in seconds, sizes in bytes as received.

    Attributes:
        host: Name or address to listen on. None: no proxy at all, as `location=None`.
        port: TCP port, 0 to 65,535. 0: a free one.
        location: Which nodes have a proxy, a `Location` once built. None: `NoServer`.
        middlewares: Starlette middlewares around everything the proxy answers; the first is outermost.
        max_request_line_bytes: Longest request line; a longer one is answered with 414.
        max_header_bytes: Largest header block, trailers counted in; a larger one is answered with 431.
        max_headers: Most header fields, trailers counted in; more are answered with 431.
        max_body_bytes: Largest request body; a larger one is answered with 413.
        max_message_bytes: Longest WebSocket message, either way; a longer one closes the WebSocket with 1009.
        header_timeout_s: Time from a request's first byte to the end of its headers.
        min_body_rate: Bytes a second of a body that a client must send on average. A slower client is cut off after 5
            seconds of grace. 0: any number.
        body_timeout_s: Longest time in which nothing of a body may come, however fast it came before.
        min_answer_rate: Bytes a second of an answer that a client must take on average, as `min_body_rate`.
        write_timeout_s: Longest time in which a client may take nothing of its answer.
        request_timeout_s: Longest time of a whole request; past it 504. Callers can only shorten it.
        keep_alive_timeout_s: Time an idle connection stays open.
        ping_interval_s: Time between pings to the client of a WebSocket; one that does not answer within as long is
            closed with 1011.
        max_connections: Connections open at once. At the limit a new connection gets the place of the one that has kept
            the proxy waiting longest, for a TLS handshake, a request's head or the next request. While all are being
            served, it waits in the kernel's queue. From half of the limit on, these deadlines shrink.
        max_connections_per_client: Connections of one client whose requests are served at once, WebSockets included;
            one more request gets 503. A client is an IPv4 address or a /64 network of IPv6 addresses. Peers in
            `trusted_proxies` have no limit. None: three quarters of `max_connections`.
        max_buffered_bytes: What a proxy may hold for all its clients, at least 1 MiB: of each request's body up to
            320 KiB, and what clients have yet to take of their answers. At three quarters of it a request with a body
            is answered with 503 before that is read, at nine tenths idle connections close, at all of it every
            request is a 503.
        trusted_proxies: Addresses and networks of peers whose forwarding headers are believed.
        allowed_hosts: Hosts by which clients may address the proxy: names, addresses, "*.example.com" for the names
            below a domain, ".example.com" for the domain too, "*" for any. Other hosts get 421. Ports do not count.
            None: on a loopback host the loopback names and addresses, otherwise any.
        allowed_origins: Hosts whose pages may open a WebSocket, in the same form; others get 403. A handshake without
            an Origin, which no browser sends, is let in. None: as `allowed_hosts`.
        list_routes: Answer `/-/routes` with the table of routes; False: with 404.
        ssl_certfile: PEM file with the certificate, and those that lead to its issuer's. None: plain HTTP.
        ssl_keyfile: PEM file with the private key. None: it is in `ssl_certfile`.
        ssl_keyfile_password: What the key is encrypted with.
        ssl_ca_certs: PEM file with the authorities that must have signed the certificate of each client. None:
            clients need none.
        debug: Answer a user's exception with its traceback. Refused on a host that is not loopback.

    Raises:
        ConfigError: An option is out of range or of the wrong type; the message names it. It is a ValueError.
    """

    host: str | None = option("127.0.0.1", anything)  # the address is checked as a whole, so that
    port: int = option(8000, anything)  # an error about either names both
    location: Placement | None = option(Location.HeadOnly, place)
    middlewares: Sequence[Middleware] = option((), middleware_list)
    max_request_line_bytes: int = option(8 * 1024, whole_number(64, MOST_BYTES))
    max_header_bytes: int = option(64 * 1024, whole_number(64, MOST_BYTES))
    max_headers: int = option(100, whole_number(1, MOST_REQUESTS))
    max_body_bytes: int = option(16 * 1024 * 1024, whole_number(0, MOST_BYTES))
    max_message_bytes: int = option(MESSAGE_BYTES, whole_number(1, MOST_BYTES))
    header_timeout_s: float = option(10.0, seconds())
    min_body_rate: int = option(240, whole_number(0, MOST_BYTES))
    body_timeout_s: float = option(10.0, seconds())
    min_answer_rate: int = option(240, whole_number(0, MOST_BYTES))
    write_timeout_s: float = option(30.0, seconds())
    request_timeout_s: float = option(60.0, seconds())
    keep_alive_timeout_s: float = option(5.0, seconds())
    ping_interval_s: float = option(20.0, seconds())
    max_connections: int = option(10_000, whole_number(1, MOST_REQUESTS))
    max_connections_per_client: int | None = option(None, optional(whole_number(1, MOST_REQUESTS)))
    max_buffered_bytes: int = option(1 << 30, whole_number(1 << 20, MOST_BYTES))
    trusted_proxies: Sequence[str] = option((), networks)
    allowed_hosts: Sequence[str] | None = option(None, optional(host_patterns))
    allowed_origins: Sequence[str] | None = option(None, optional(host_patterns))
    list_routes: bool = option(True, flag)
    ssl_certfile: str | None = option(None, optional(file_path))
    ssl_keyfile: str | None = option(None, optional(file_path))
    ssl_keyfile_password: str | None = option(None, optional(password), secret=True)
    ssl_ca_certs: str | None = option(None, optional(file_path))
    debug: bool = option(False, flag)

    def __new__(cls, **given: object) -> Self:
        """Check the names of the options; the error of `__init__` would suggest none."""
        check_keys(cls, given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_options(self)
        check_listen_address(self.host, self.port)
        if self.host is None:
            object.__setattr__(self, "location", Location.NoServer)
        if self.ssl_certfile is None:
            for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} needs ssl_certfile")
        if self.debug and self.location is not Location.NoServer and not is_loopback(self.host):
            raise ConfigError(
                f"debug=True shows tracebacks to every client, so it needs a loopback host, got {self.host!r}"
            )

    @classmethod
    def of(cls, value: HTTPOptions | Mapping[str, Any] | None) -> HTTPOptions:
        """Return *value* as options: itself, built from a mapping, or all defaults for None.

        Raises:
            ConfigError: A key names no option, or an option's value is bad.
            TypeError: *value* is neither.
        """
        if isinstance(value, HTTPOptions):
            return value
        return cls(**options_of(cls, value))


def http_differences(old: HTTPOptions, new: HTTPOptions) -> list[str]:
    """Return where *new* differs from *old*, such as "port is 8000, not 9000"; the value of a secret is not shown."""
    found = []
    for each in fields(HTTPOptions):
        was, wanted = getattr(old, each.name), getattr(new, each.name)
        if was != wanted and shown(was) != shown(wanted):  # middlewares that were pickled are equal to no other
            told = f" is {shown(was)}, not {shown(wanted)}" if each.repr else " is another"
            found.append(each.name + told)
    return found


def options_of(config_class: type[Any], value: object) -> dict[str, Any]:
    """Return the options that a mapping (or None, for no options) sets, once each key is known to be one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"expected {config_class.__name__} or a dict of its options, got {shown(value)}")
    check_keys(config_class, value)
    return dict(value)


def check_listen_address(host: object, port: object) -> None:
    """Check the form of a host and a port; an error names both, since one is rarely looked for alone."""
    address = f"{host if isinstance(host, str) else shown(host):.255}:{shown(port)}"
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ConfigError(f"cannot listen on {address}: port must be an int from 0 to 65535, got {shown(port)}")
    if host is None:
        return
    if not isinstance(host, str) or not re.fullmatch(r"[^\s/?#@\x00-\x1f\x7f]{1,255}", host):
        raise ConfigError(f"cannot listen on {address}: host must be a name or an address, or None for no proxy")


def is_loopback(host: str | None) -> bool:
    """Return whether *host* names this machine only, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


# Names


NAME_ALPHABET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}", re.ASCII)


def check_name(kind: str, name: object) -> str:
    """Return *name* if it can name an endpoint, a backend or an instance.

    A name has 1 to 128 characters out of ASCII letters, digits and `_ . : -`, and begins with a letter, a
    digit or `_`: it can then stand in a URL, a metric's label, an actor's name and a log line as it is.

    Args:
        kind: What is named, for the error: "endpoint", "backend", "instance".
        name: The name as the user gave it.

    Raises:
        TypeError: It is no str.
        ConfigError: It is empty, too long, or has another character. It is a ValueError.
    """
    if not isinstance(name, str):
        raise TypeError(f"{kind} name must be a str, got {shown(name)}")
    if not NAME_ALPHABET.fullmatch(name):
        raise ConfigError(
            f"{kind} name must be 1 to 128 characters out of A-Z a-z 0-9 _ . : -, the first one a letter, "
            f"a digit or _, got {shown(name)}"
        )
    return name


# Options of the actor behind a replica


ENGINE_OPTIONS: Final = frozenset({
    "concurrency_groups",
    "get_if_exists",
    "lifetime",
    "max_concurrency",
    "max_restarts",
    "max_task_retries",
    "name",
    "namespace",
    "placement_group",
    "placement_group_bundle_index",
    "placement_group_capture_child_tasks",
})  # fmt: skip
AMOUNTS: Final = ("num_cpus", "num_gpus", "memory", "object_store_memory")
RAY_OPTIONS: Final[Mapping[str, type]] = {
    **dict.fromkeys(AMOUNTS, object),
    "resources": object,
    "accelerator_type": str,
    "allow_out_of_order_execution": bool,
    "enable_task_events": bool,
    "enable_tensor_transport": bool,
    "fallback_strategy": list,
    "label_selector": dict,
    "max_pending_calls": int,
    "runtime_env": dict,
    "scheduling_strategy": object,
    "_actor_generator_backpressure_num_objects": int,
    "_labels": dict,
}
"""Options of Ray's `actor.options(...)` that a user may give, with their types; `object` where another check knows."""


def check_ray_actor_options(options: object) -> dict[str, Any]:
    """Return a copy of the Ray actor options for a replica; None stands for none.

    Args:
        options: What Ray's `actor.options(...)` takes, less what the engine sets itself.

    Raises:
        TypeError: It is not a dict, a resource is not a number, or an option has another type than Ray takes.
        ConfigError: An option is unknown or the engine's own, or a resource is negative or not finite.
    """
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise TypeError(f"ray_actor_options must be a dict, got {shown(options)}")
    for key in options:
        if not isinstance(key, str):
            raise TypeError(f"ray_actor_options must have str keys, got {shown(key)}")
        if key in ENGINE_OPTIONS:
            raise ConfigError(f"ray_actor_options must not set {key!r}: the engine owns it")
        if key not in RAY_OPTIONS:
            near = nearest(key, RAY_OPTIONS) or f"; known: {', '.join(n for n in RAY_OPTIONS if n[0] != '_')}"
            raise ConfigError(f"ray_actor_options has no option {shown(key)}{near}")
        kind = RAY_OPTIONS[key]
        if options[key] is not None and not isinstance(options[key], kind):
            raise TypeError(f"ray_actor_options[{key!r}] must be of type {kind.__name__}, got {shown(options[key])}")
    for key in AMOUNTS:
        if options.get(key) is not None:
            check_amount(key, options[key])
    check_custom_resources(options.get("resources"))
    return dict(options)


def check_custom_resources(resources: object) -> None:
    """Check Ray's `resources`: a dict of amounts by name, CPU and GPU excluded."""
    if resources is None:
        return
    if not isinstance(resources, dict):
        raise TypeError(f"ray_actor_options['resources'] must be a dict, got {shown(resources)}")
    for name, amount in resources.items():
        if not isinstance(name, str):
            raise TypeError(f"ray_actor_options['resources'] must have str keys, got {shown(name)}")
        if name in ("CPU", "GPU"):
            raise ConfigError(f"ray_actor_options['resources'] must not set {name!r}: use num_{name.lower()}s")
        check_amount(f"resources[{name!r}]", amount)


def check_amount(name: str, amount: object) -> None:
    """Check an amount of a resource: a finite number of 0 or more."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise TypeError(f"ray_actor_options: {name} must be a number, got {shown(amount)}")
    if not math.isfinite(amount) or amount < 0:
        raise ConfigError(f"ray_actor_options: {name} must be 0 or more, got {shown(amount)}")
