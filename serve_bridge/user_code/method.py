"""One callable of a backend: how it runs, what it receives, and which calls are wrong.

Rule 1: a signature is inspected when the method is built; a call only looks up what was found then.
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
    """One callable of a backend and what it receives.

    Attributes:
        name: The name that callers use; "__call__" for a function too.
        func: The bound callable.
        is_async: Whether it is an `async def`, generators too. A plain `def` may still return an awaitable.
        is_generator: Whether it yields its results.
        batched: Whether it takes a list of requests.
        takes: What its first argument is: the request, the data of the call, or nothing.
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
        """Return *func*, bound already, as a method.

        Args:
            name: The name that callers use.
            func: The bound callable.
            default: Whether it is a function or a `__call__`, which receive the request however they name it.
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
        """Return what `func` is to be called with.

        Args:
            data: The request if `takes` is "request", otherwise the data of the call. `NO_DATA` if the request has no
                body; None if the call has no data.
            kwargs: The keyword arguments of the call, or the query parameters; a request carries them itself.

        Raises:
            TypeError: The method does not take this data, or a keyword, or lacks one. The caller is to blame.
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
    except Exception:  # none, or a name that exists for type checkers only: what it is called must do
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
    """Return the name under which a bound method's instance or class would clash with a keyword; None if none would."""
    if not inspect.ismethod(func):
        return None
    first = next(iter(parameters_of(func.__func__)), None)
    return first.name if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else None
