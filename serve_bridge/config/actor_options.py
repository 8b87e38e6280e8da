"""The options of the Ray actors behind replicas: which ones users may set, and their types. Imports no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown

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
"""Options of Ray's actors which serve_bridge sets itself. Users may not set them."""
AMOUNTS: Final = ("num_cpus", "num_gpus", "memory", "object_store_memory")
"""Amounts of resources: finite numbers of at least 0."""
STRATEGIES: Final = ("DEFAULT", "SPREAD")
"""Names of Ray's scheduling strategies."""
STRATEGY_MODULE: Final = "ray.util.scheduling_strategies"
"""The module of Ray's other scheduling strategies. It is not imported here, because a web process may lack Ray."""
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
"""Options of Ray's `actor.options(...)` for users, with their types. `object`: another check has the type."""


def check_ray_actor_options(options: object) -> dict[str, Any]:
    """Return a copy of the Ray actor options for a replica; an empty dict for None.

    Args:
        options: The options of Ray's `actor.options(...)`, without `ENGINE_OPTIONS`.

    Raises:
        TypeError: It is not a dict, a resource is not a number, or an option has another type than Ray takes.
        ConfigError: An option is unknown or reserved for the engine, or a resource is negative or not finite.
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
    check_scheduling_strategy(options.get("scheduling_strategy"))
    return dict(options)


def check_custom_resources(resources: object) -> None:
    """Check Ray's `resources`: a dict of amounts by name, without CPU and GPU, which have options of their own."""
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


def check_scheduling_strategy(strategy: object) -> None:
    """Check Ray's `scheduling_strategy`: one of its names, or an object of `ray.util.scheduling_strategies`."""
    allowed = f"{' or '.join(map(repr, STRATEGIES))}, or an object of {STRATEGY_MODULE}"
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        near = nearest(strategy, STRATEGIES)
        raise ConfigError(f"ray_actor_options['scheduling_strategy'] must be {allowed}, got {shown(strategy)}{near}")
    if strategy is not None and not isinstance(strategy, str) and type(strategy).__module__ != STRATEGY_MODULE:
        raise TypeError(f"ray_actor_options['scheduling_strategy'] must be {allowed}, got {shown(strategy)}")


def check_amount(name: str, amount: object) -> None:
    """Check an amount of a resource: a finite number of at least 0."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise TypeError(f"ray_actor_options: {name} must be a number, got {shown(amount)}")
    if not math.isfinite(amount) or amount < 0:
        raise ConfigError(f"ray_actor_options: {name} must be 0 or more, got {shown(amount)}")
