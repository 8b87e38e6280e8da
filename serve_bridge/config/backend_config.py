"""The options of a backend, each with its unit, default and check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self, TypedDict

from serve_bridge.config.checks import (
    anything,
    method_names,
    optional,
    seconds,
    whole_number,
)
from serve_bridge.config.options import (
    MOST_REPLICAS,
    MOST_REQUESTS,
    check_keys,
    check_options,
    option,
    options_of,
)
from serve_bridge.config.signatures import signature_of
from serve_bridge.errors import ConfigError

__all__ = ["BackendConfig", "BackendOptions"]


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
    max_surge: int | None
    max_unavailable: int


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
        max_queued_queries: Upper limit for the waiting requests to this backend in one calling process. One more raises
            `BackendOverloaded` at once. 0: no request may wait.
        threads: Threads of a replica for `def` code. 1 runs one request after another.
        exposed_methods: Names of the callable methods beside `__call__`. None: the public ones.
        max_surge: Upper limit for the replicas above `num_replicas` that run during an update. None: as many as
            `num_replicas`, so all new replicas start beside the old ones.
        max_unavailable: Upper limit for the replicas of `num_replicas` that do not serve during an update.

    Raises:
        ConfigError: An option is out of range or of the wrong type, or `max_surge` and `max_unavailable` are both 0.
            The message names the option. It is a ValueError.
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
    max_surge: int | None = option(None, optional(whole_number(0, MOST_REPLICAS)))
    max_unavailable: int = option(0, whole_number(0, MOST_REPLICAS))

    def __new__(cls, **given: object) -> Self:
        """Check the names of the options, and remember which were passed; `__init__` sees them all alike."""
        check_keys(cls, given)
        self = super().__new__(cls)
        object.__setattr__(self, "_given", frozenset(given))
        return self

    def __post_init__(self) -> None:
        check_options(self)
        # A config with one of them may be an update; `merged` checks the result.
        if {"max_surge", "max_unavailable"} <= self.given:
            check_room(self.max_surge, self.max_unavailable)

    @classmethod
    def of(cls, value: BackendConfig | BackendOptions | Mapping[str, Any] | None) -> BackendConfig:
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
        """Names of the given options, here or in an update. They do not count for equality."""
        given: frozenset[str] = self.__dict__["_given"]
        return given

    def merged(self, update: BackendConfig | BackendOptions | Mapping[str, Any]) -> BackendConfig:
        """Return this config with the given options of *update*. Other options stay.

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


def check_room(max_surge: int | None, max_unavailable: int) -> None:
    """Check the room of an update.

    Raises:
        ConfigError: Both limits are 0, so no replica can be replaced.
    """
    if max_surge == 0 and max_unavailable == 0:
        raise ConfigError(
            "max_surge=0 and max_unavailable=0 leave no room for an update; set max_unavailable=1 to replace one "
            "replica after another in its place, or max_surge=1 to start each new replica beside the old ones"
        )


setattr(BackendConfig, "__signature__", signature_of(BackendConfig))  # noqa: B010  # `__new__` hides the options

BACKEND_DEFAULTS: Final[Mapping[str, Any]] = {each.name: each.default for each in fields(BackendConfig)}
"""The default of each option."""
