"""The arguments of operations: checked in the caller, and packed for the controller.

Rule 1: every check without state is made here. If a check fails, nothing has been sent.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final

from serve_bridge.config.actor_options import check_ray_actor_options
from serve_bridge.config.backend_config import BackendConfig, BackendOptions, check_room
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown
from serve_bridge.specs import BackendSpec, packed, packed_config
from serve_bridge.user_code.application import Application

BACKEND_OPTIONS: Final = frozenset(each.name for each in fields(BackendConfig))


def checked_backend(
    name: str,
    func_or_class: Any,
    init_args: tuple[Any, ...],
    init_kwargs: dict[str, Any],
    config: BackendConfig | BackendOptions | None,
    ray_actor_options: dict[str, Any] | None,
    base: BackendConfig | None = None,
) -> BackendSpec:
    """Check the arguments of a new or updated backend, and return the backend for the controller.

    *base* has the current options of an existing backend, which *config* changes.
    """
    # Late, because a process that only calls backends does not need to examine code.
    from serve_bridge.user_code.frozen_code import freeze_code
    from serve_bridge.user_code.served_methods import is_async_code
    from serve_bridge.user_code.validation import check_backend_code, check_config

    check_name("backend", name)
    _check_no_options(func_or_class, init_kwargs)
    check_backend_code(func_or_class, init_args, init_kwargs)
    checked = BackendConfig.of(config)
    merged = checked if base is None else base.merged(checked)
    check_config(func_or_class, merged)
    check_room(merged.max_surge, merged.max_unavailable)
    return BackendSpec(
        name=name,
        code=freeze_code(func_or_class, init_args, init_kwargs),
        is_async=is_async_code(func_or_class, merged.exposed_methods),
        config=packed_config(checked),
        actor_options=packed("ray_actor_options", check_ray_actor_options(ray_actor_options)),
        is_application=isinstance(func_or_class, Application),
    )


def _check_no_options(func_or_class: object, init_kwargs: Mapping[str, Any]) -> None:
    """Check the keywords of a constructor: an option of serve_bridge among them is a mistake.

    A constructor with `**kwargs` would accept the option silently. A parameter of that name is the user's own.

    Raises:
        ConfigError: A keyword is an option.
    """
    own = _parameters_of(func_or_class)
    for name in init_kwargs:
        if name in own:
            continue
        if name in BACKEND_OPTIONS:
            raise ConfigError(f"{name} is an option: pass config={{{name!r}: {shown(init_kwargs[name])}}}")
        if name in ("num_cpus", "num_gpus", "runtime_env"):
            raise ConfigError(f"{name} is an option of Ray's actors: pass ray_actor_options={{{name!r}: ...}}")
        if name in ("route", "methods", "timeout_s") and inspect.isfunction(func_or_class):
            raise ConfigError(f"{name} is an option of endpoints: pass it to create_endpoint")


def _parameters_of(func_or_class: object) -> Collection[str]:
    try:
        return inspect.signature(func_or_class).parameters if inspect.isclass(func_or_class) else ()
    except (TypeError, ValueError):  # written in C
        return ()
