"""One callable of a backend: how it runs, and which arguments it gets.

Rule 1: the signature is inspected when the method is built. A call only uses the findings.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from starlette.requests import Request

from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.user_code.batch_marks import accepts_batch
from serve_bridge.user_code.call_signature import Arguments, CallSignature
from serve_bridge.user_code.signatures import POSITIONAL, VARIADIC, is_async, is_generator, parameters_of

__all__ = [
    "Method",
]


_FIRST: Final = (*POSITIONAL, inspect.Parameter.VAR_POSITIONAL)


@dataclass(frozen=True, slots=True)
class Method:
    """One callable of a backend.

    Attributes:
        name: The name for callers; "__call__" for a function, too.
        func: The bound callable.
        is_async: Whether `func` is an `async def`, with or without `yield`. A `def` may still return an awaitable.
        is_generator: Whether `func` yields its results.
        batched: Whether `func` takes a list of requests.
        takes: The first argument of `func`: the request, the data of the call, or nothing.
    """

    name: str
    func: Callable[..., Any]
    is_async: bool
    is_generator: bool
    batched: bool
    takes: Literal["request", "data", "nothing"]
    _binding: Callable[[Any, Mapping[str, Any]], Arguments] = field(repr=False)

    @classmethod
    def of(cls, name: str, func: Callable[..., Any], *, default: bool) -> Method:
        """Return *func* as a method.

        Args:
            name: The name for callers.
            func: The bound callable.
            default: Whether *func* is a function or a `__call__`. Their parameter is the request, under any name.
        """
        parameters = parameters_of(func)
        first = next((p for p in parameters if p.kind in _FIRST), None)
        takes: Literal["request", "data", "nothing"]
        binding: Callable[[Any, Mapping[str, Any]], Arguments]
        if first is not None and (default or accepts_batch(func) or _wants_request(func, first)):
            takes, binding = "request", _only_request
        elif default:
            takes, binding = "nothing", _no_arguments
        else:
            takes = "nothing" if first is None else "data"
            binding = CallSignature(name, parameters, first, _bound_parameter(func)).bind
        return cls(name, func, is_async(func), is_generator(func), accepts_batch(func), takes, binding)

    def arguments(self, data: Any, kwargs: Mapping[str, Any]) -> Arguments:
        """Return the arguments for `func`.

        Args:
            data: The request if `takes` is "request", otherwise the data of the call. `NO_DATA` if an HTTP request has
                no body; None if a call has no data.
            kwargs: The keyword arguments of the call, or the query parameters. A request has them itself.

        Raises:
            TypeError: The method does not accept this data or a keyword, or needs another keyword.
        """
        return self._binding(data, kwargs)


def _only_request(request: Any, _: Mapping[str, Any]) -> Arguments:
    return (request,), {}


def _no_arguments(_: Any, __: Mapping[str, Any]) -> Arguments:
    return (), {}


def _wants_request(func: Callable[..., Any], first: inspect.Parameter) -> bool:
    if first.kind in VARIADIC:
        return False
    if first.name == "request" or first.name.endswith("_request"):
        return True
    try:
        annotation = typing.get_type_hints(func, include_extras=True)[first.name]
    except Exception:  # no annotation, or a name for type checkers only: its text decides
        annotation = first.annotation
    return _is_request_type(annotation)


def _is_request_type(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return any(word in ("Request", "ServeRequest") for word in re.findall(r"\w+", annotation))
    origin = typing.get_origin(annotation) or annotation
    if origin in (typing.Union, types.UnionType):
        return any(_is_request_type(part) for part in typing.get_args(annotation))
    if origin is typing.Annotated:
        return _is_request_type(typing.get_args(annotation)[0])
    return inspect.isclass(origin) and issubclass(origin, Request | ServeRequest)


def _bound_parameter(func: Callable[..., Any]) -> str | None:
    """Return the name of the parameter `self` or `cls`, with which a keyword could clash; None if it cannot."""
    if not inspect.ismethod(func):
        return None
    first = next(iter(parameters_of(func.__func__)), None)
    return first.name if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else None
