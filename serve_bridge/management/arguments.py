"""What users pass to a client, checked where they pass it and made ready for the controller.

Rule 1: every check that needs no state is made here, in the caller: nothing was sent when one fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from serve_bridge.config.actor_options import check_ray_actor_options
from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.checks import token
from serve_bridge.config.names import check_name
from serve_bridge.controller.wanted_state import Backend
from serve_bridge.errors import ConfigError, SerializationError, shown
from serve_bridge.user_code.application import ANY_METHOD, Application
from serve_bridge.wire.payload import Opaque

BACKEND_OPTIONS: Final = frozenset(each.name for each in fields(BackendConfig))


def checked_backend(
    name: str,
    func_or_class: Any,
    init_args: tuple[Any, ...],
    init_kwargs: dict[str, Any],
    config: BackendConfig | Mapping[str, Any] | None,
    ray_actor_options: dict[str, Any] | None,
    base: BackendConfig | None = None,
) -> Backend:
    """Check everything that the caller gave, and return it ready for the controller.

    *base* is the config that *config* changes, where there is one already.
    """
    # Late: a web process that calls backends, and creates none, has no use for what looks into code.
    from serve_bridge.user_code.frozen_code import freeze_code
    from serve_bridge.user_code.validation import check_backend_code, check_config, is_async_code

    check_name("backend", name)
    _check_no_options(func_or_class, init_kwargs)
    check_backend_code(func_or_class, init_args, init_kwargs)
    checked = BackendConfig.of(config)
    merged = checked if base is None else base.merged(checked)
    check_config(func_or_class, merged)
    return Backend(
        name=name,
        code=freeze_code(func_or_class, init_args, init_kwargs),
        is_async=is_async_code(func_or_class, merged.exposed_methods),
        config=packed_config(checked),
        actor_options=_packed("ray_actor_options", check_ray_actor_options(ray_actor_options)),
        is_application=isinstance(func_or_class, Application),
    )


def _check_no_options(func_or_class: object, init_kwargs: Mapping[str, Any]) -> None:
    """Check that no keyword is an option of the engine, which a constructor with `**kwargs` would swallow.

    A constructor may have a parameter of that name: then the keyword is its own.

    Raises:
        ConfigError: One is.
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


def existing_name(kind: str, name: object) -> str:
    """Return the name of what exists already; what else it must be was checked when that was created."""
    if not isinstance(name, str):
        raise TypeError(f"{kind} name must be a str, got {shown(name)}")
    return name


def packed_config(config: BackendConfig) -> BackendConfig:
    """Return *config* with its `user_config` packed, so that the controller need not know its classes."""
    if config.user_config is None:
        return config
    return config.merged({"user_config": _packed("user_config", config.user_config)})


def opened_config(config: BackendConfig) -> BackendConfig:
    """Return a config of the controller's with its `user_config` as the user gave it."""
    value = config.user_config
    return config.merged({"user_config": value.open()}) if isinstance(value, Opaque) else config


def _packed(name: str, value: object) -> Opaque:
    try:
        return Opaque(value)
    except SerializationError as error:
        raise SerializationError(f"{name}: {error}") from error


def checked_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """Return HTTP methods as they are stored: upper-case, once each, without the HEAD that comes with GET."""
    if isinstance(methods, str | bytes) or not isinstance(methods, Iterable):
        raise TypeError(f"methods must be a list of methods such as ['GET'], got {shown(methods)}")
    found: dict[str, None] = {}
    for method in methods:
        if not isinstance(method, str):
            raise TypeError(f"methods must be strings, got {shown(method)}")
        found[token("an HTTP method", method).upper()] = None
    if "GET" in found:
        found.pop("HEAD", None)
    if ANY_METHOD[0] in found:
        raise ConfigError("'*' is no HTTP method; name those that the endpoint takes")
    if not found:
        raise ConfigError("methods must name at least one HTTP method")
    return tuple(found)
