"""Signatures with each option by name, for `help`, editors and notebooks, where the code has `**options`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from serve_bridge.printable import nearest, shown

Function = TypeVar("Function", bound=Callable[..., Any])


def shows_options(options: type, defaults: Mapping[str, Any]) -> Callable[[Function], Function]:
    """Return a decorator: it replaces `**options` in the signature by the keys of *options*, a TypedDict."""

    def decorate(function: Function) -> Function:
        own = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=_text_of(each))
            for name, each in options.__annotations__.items()
        ]
        shown_signature = inspect.signature(function).replace(parameters=[*own, *named])
        setattr(function, "__signature__", shown_signature)  # noqa: B010  # a type checker knows no such attribute
        return function

    return decorate


def _text_of(annotation: Any) -> Any:
    """Return the text of an annotation: a TypedDict wraps it, and `help` would show the wrapper."""
    return getattr(annotation, "__forward_arg__", annotation)


def check_options_of(function: str, given: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raise TypeError if *function* got an unknown option. The message suggests the nearest one."""
    for name in given:
        if name not in known:
            raise TypeError(f"{function}() has no option {shown(name)}{nearest(name, known)}")


def signature_of(config_class: Any) -> inspect.Signature:
    """Return the signature of a config class: its fields as keyword arguments."""
    return inspect.Signature([
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in fields(config_class)
    ])  # fmt: skip
