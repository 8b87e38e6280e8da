"""A backend's code on its journey to a replica: frozen in the caller, thawed in the replica.

Rule 1: beside `wire.payload` this is the one module that unpickles. What it thaws came from the instance's
        own controller, over an authenticated connection; nothing that came in as HTTP gets here.
Rule 2: a failure names the path to what cannot be pickled and its type; the caller reads it, nobody else.
"""

from __future__ import annotations

import inspect
import io
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import cloudpickle
import msgspec
from starlette.datastructures import State

from serve_bridge.application import Application
from serve_bridge.errors import PICKLING_ERRORS, SerializationError
from serve_bridge.surroundings import SurroundingsSpec

__all__ = ["FrozenCode", "freeze_code", "thaw_code", "unpicklable_path"]

_DEEPEST: Final = 50  # levels that the search for what cannot be pickled goes down


class FrozenCode(msgspec.Struct, frozen=True, array_like=True):
    """A backend's code, and what a replica does before it thaws that.

    Attributes:
        pickled: The code and the arguments of its constructor.
        search_path: Directories in which imports look first.
        surroundings: What the code runs in; None: nothing.
    """

    pickled: bytes
    search_path: tuple[str, ...] = ()
    surroundings: SurroundingsSpec | None = None

    @classmethod
    def of(cls, blob: bytes) -> FrozenCode:
        """Return what `freeze_code` wrote, without thawing it."""
        return _decode(blob)

    def thaw(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return code, arguments and keyword arguments; they must be trusted."""
        code: tuple[Any, tuple[Any, ...], dict[str, Any]] = cloudpickle.loads(self.pickled)
        return code


_decode: Final = msgspec.msgpack.Decoder(FrozenCode).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def freeze_code(
    func_or_class: object,
    init_args: Sequence[Any],
    init_kwargs: Mapping[str, Any],
    *,
    search_path: Sequence[str] = (),
    surroundings: SurroundingsSpec | None = None,
) -> bytes:
    """Return the code and the arguments of its constructor as bytes for `FrozenCode.of`.

    An application brings the directories along in which its own module is found.

    Raises:
        SerializationError: Something in them cannot be pickled; the message names the path to it.
    """
    code = (func_or_class, tuple(init_args), dict(init_kwargs))
    if isinstance(func_or_class, Application):
        search_path = tuple(dict.fromkeys([*search_path, *func_or_class.search_path]))
    try:
        pickled = _pickled(code)
    except PICKLING_ERRORS as error:
        if isinstance(func_or_class, Application):
            raise SerializationError(
                f"{func_or_class!r} cannot be pickled: {error}; give it by its import path 'package.module:attr', "
                "or under a name in a module that replicas can import"
            ) from error
        for name, part in zip(("func_or_class", "init_args", "init_kwargs"), code, strict=True):
            found = unpicklable_path(part, name)
            if found is not None:
                path, culprit, reason = found
                raise SerializationError(f"{path} cannot be pickled: {_kind(culprit)}: {reason}") from error
        raise SerializationError(f"the backend's code cannot be pickled: {error}") from error
    return _encode(FrozenCode(pickled, tuple(search_path), surroundings))


def thaw_code(blob: bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return code, arguments and keyword arguments from `freeze_code`; *blob* must be trusted."""
    return FrozenCode.of(blob).thaw()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """cloudpickle's, which also knows the state that every Starlette application has.

    By itself that is written, but cannot be read: its `__getattr__` calls itself while it is empty.
    """

    def reducer_override(self, value: Any) -> Any:
        """Return how *value* is rebuilt, or leave that to cloudpickle."""
        return (State, (value._state,)) if type(value) is State else super().reducer_override(value)


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def unpicklable_path(value: object, name: str) -> tuple[str, object, BaseException] | None:
    """Return where in *value* pickling fails: path, object there, reason; None if it does not fail.

    It tries part after part, which takes time: for use after a failure only.
    """
    return _search(value, name, set())


def _search(value: object, path: str, seen: set[int], depth: int = 0) -> tuple[str, object, BaseException] | None:
    reason = _refusal(value)
    if reason is None:
        return None
    seen.add(id(value))
    for step, part in _parts(value) if depth < _DEEPEST else ():
        if id(part) not in seen:
            found = _search(part, path + step, seen, depth + 1)
            if found is not None:
                return found
    return path, value, reason


def _refusal(value: object) -> BaseException | None:
    try:
        cloudpickle.Pickler(_Nowhere()).dump(value)
    except PICKLING_ERRORS as error:
        return error
    return None


class _Nowhere(io.RawIOBase):
    """A file that forgets, so that trying a large object takes no memory."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _parts(value: object) -> list[tuple[str, object]]:
    """Return what pickling *value* would visit next, each with its step of the path."""
    try:
        if inspect.isfunction(value):
            return [*_function_parts(value)]
        if inspect.isclass(value):
            return [*_attribute_parts(vars(value))]
        return [*_item_parts(value), *_state_parts(value)]
    except PICKLING_ERRORS:  # of a foreign `items` or `__getstate__`; the object itself is named then
        return []


def _item_parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", item) for key, item in value.items())
        yield from ((f" key {key!r:.40}", key) for key in value)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif inspect.ismethod(value):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__


def _state_parts(value: object) -> Iterator[tuple[str, object]]:
    state = value.__getstate__()
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", item) for name, item in part.items())


def _attribute_parts(attributes: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, item in attributes.items():
        if name in ("__call__", "__init__") or not name.startswith("__"):
            yield f".{name}", item


def _function_parts(func: types.FunctionType) -> Iterator[tuple[str, object]]:
    variables = inspect.getclosurevars(func)
    for name, item in {**variables.nonlocals, **variables.globals}.items():
        yield f" variable {name!r}", item
    for index, item in enumerate(func.__defaults__ or ()):
        yield f" default {index}", item
    for name, item in (func.__kwdefaults__ or {}).items():
        yield f" default {name!r}", item


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
