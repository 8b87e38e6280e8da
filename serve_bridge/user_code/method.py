"""One callable of a backend: how it runs, what it receives, and which calls are wrong.

Rule 1: a signature is inspected when the method is built; a call only looks up what was found then.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn

from starlette.requests import Request

from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.user_code.batch_queue import accepts_batch

__all__ = ["Arguments", "Method", "check_signature", "is_async", "is_generator"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

NO_DATA: Final = object()
"""The data of an HTTP request without a body. A Python call without data has None, which it may also mean."""
_KEYWORD: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_FIRST: Final = (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL)
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_OF_APPLICATIONS: Final = (["receive", "send"], ["start_response"])


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
        parameters = _parameters(func)
        first = next((p for p in parameters if p.kind in _FIRST), None)
        takes: Literal["request", "data", "nothing"]
        binding: Callable[[Any, Mapping[str, Any]], Arguments]
        if first is not None and (default or accepts_batch(func) or _wants_request(func, first)):
            takes, binding = "request", _only_request
        elif default:
            takes, binding = "nothing", _no_arguments
        else:
            takes = "nothing" if first is None else "data"
            binding = _Signature(name, parameters, first, _bound_parameter(func)).bind
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


def check_signature(name: str, func: Callable[..., Any], *, default: bool = True) -> None:
    """Refuse a signature that no request can meet.

    Args:
        name: What to call it in a message.
        func: The bound callable.
        default: Whether it is a function or a `__call__`, which nobody passes keywords.

    Raises:
        TypeError: It needs more than the request; or it takes batches and yields, or takes nothing.
    """
    parameters = _parameters(func)
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    if accepts_batch(func) and (is_generator(func) or not parameters):
        raise TypeError(f"{name} accepts batches, so it must take a list and return one, not yield")
    if default:
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
        spare = [n for n in needed if not positional or n != positional[0].name]
        if spare:
            hint = (
                "; an application goes into serve.asgi_app() or serve.wsgi_app()" if spare in _OF_APPLICATIONS else ""
            )
            raise TypeError(f"{name} is called with the request alone, but needs {', '.join(spare)} too{hint}")


def is_async(func: object) -> bool:
    """Return whether *func* is an `async def`, one that yields too."""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def is_generator(func: object) -> bool:
    """Return whether *func* yields its results."""
    return inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)


def _only_request(request: Any, _: Mapping[str, Any]) -> Arguments:
    return (request,), {}


def _no_arguments(_: Any, __: Mapping[str, Any]) -> Arguments:
    return (), {}


class _Signature:
    """A signature reduced to what a call with one value and some keywords can get wrong."""

    __slots__ = ("_any_keyword", "_bound", "_first", "_keywords", "_name", "_required", "_skips_none")

    def __init__(
        self,
        name: str,
        parameters: Sequence[inspect.Parameter],
        first: inspect.Parameter | None,
        bound: str | None,
    ) -> None:
        self._name = name
        self._bound = bound
        self._first = first.name if first is not None else None
        self._any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._keywords = frozenset(p.name for p in parameters if p.kind in _KEYWORD)
        self._required = frozenset(
            p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC and p is not first
        )
        # No data and None look alike: a default, or an empty *args, is what the method's author wants then.
        self._skips_none = first is not None and (first.default is not first.empty or first.kind in _VARIADIC)

    def bind(self, data: Any, kwargs: Mapping[str, Any]) -> Arguments:
        """Return the arguments, or raise the TypeError that a wrong call by hand would raise."""
        has_data = data is not NO_DATA
        data = data if has_data else None
        if self._first is None:
            if data is not None:
                self._refuse("takes no data")
            args: tuple[Any, ...] = ()
        elif data is None and (self._skips_none or (self._first in kwargs and self._first in self._keywords)):
            args = ()
        elif self._first in kwargs and self._first in self._keywords:
            self._refuse(f"got {self._first!r} twice, as data and as a keyword")
        elif has_data:
            args = (data,)
        else:
            self._refuse("needs data")
        if kwargs or self._required:
            self._check_keywords(kwargs)
        return args, dict(kwargs)

    def _check_keywords(self, kwargs: Mapping[str, Any]) -> None:
        if not self._any_keyword and not self._keywords.issuperset(kwargs):
            unknown = next(name for name in kwargs if name not in self._keywords)
            self._refuse(f"takes no keyword {unknown!r}")
        if self._any_keyword and self._bound in kwargs:
            self._refuse(f"takes no keyword {self._bound!r}")
        if not self._required.issubset(kwargs):
            self._refuse(f"needs the keyword {min(self._required.difference(kwargs))!r}")

    def _refuse(self, reason: str) -> NoReturn:
        raise TypeError(f"method {self._name!r} {reason}")


def _wants_request(func: Callable[..., Any], first: inspect.Parameter) -> bool:
    if first.kind in _VARIADIC:
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
    first = next(iter(_parameters(func.__func__)), None)
    return first.name if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else None


def _parameters(func: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):  # written in C without a signature: let the call itself tell
        return [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
