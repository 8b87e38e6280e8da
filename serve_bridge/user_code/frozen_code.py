"""A backend's code on its journey to a replica: frozen in the caller, thawed in the replica.

Rule 1: beside `wire.payload` this is the one module that unpickles. What it thaws came from the instance's
        own controller, over an authenticated connection; nothing that came in as HTTP gets here.
Rule 2: a failure names the path to what cannot be pickled and its type; the caller reads it, nobody else.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import types
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import cloudpickle
import msgspec
from starlette.datastructures import State

from serve_bridge.errors import SerializationError
from serve_bridge.process.class_register import share_class_register
from serve_bridge.process.pickling_errors import PICKLING_ERRORS
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.search_path import search_path_of
from serve_bridge.user_code.surroundings import SurroundingsSpec
from serve_bridge.user_code.unpicklable import kind_of, unpicklable_path

__all__ = ["FrozenCode", "freeze_code", "thaw_code"]


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
        code: tuple[Any, tuple[Any, ...], dict[str, Any]] = _Unpickler(io.BytesIO(self.pickled)).load()
        return code


class _Unpickler(pickle.Unpickler):
    """pickle's, which does not wait for a module that another thread imports.

    A module may create a backend of its own function while it is imported, as `uvicorn main:app` imports `main`. With
    the local runtime its thread waits for the replica, and the replica would wait for the end of the import.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what is called *name* in *module*."""
        loaded = sys.modules.get(module)
        if loaded is not None and getattr(getattr(loaded, "__spec__", None), "_initializing", False):
            with contextlib.suppress(AttributeError):
                return attrgetter(name)(loaded)
        return super().find_class(module, name)


_decode: Final = msgspec.msgpack.Decoder(FrozenCode).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def freeze_code(
    func_or_class: object,
    init_args: Sequence[Any],
    init_kwargs: Mapping[str, Any],
    *,
    surroundings: SurroundingsSpec | None = None,
) -> bytes:
    """Return the code and the arguments of its constructor as bytes for `FrozenCode.of`.

    With them go the directories in which a replica finds their modules: that of the code itself, and each module that
    the code or an argument refers to.

    Raises:
        SerializationError: Something in them cannot be pickled; the message names the path to it.
    """
    code = (func_or_class, tuple(init_args), dict(init_kwargs))
    modules = {_home_of(func_or_class): None}
    try:
        pickled = _pickled(code, modules)
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
                raise SerializationError(f"{path} cannot be pickled: {kind_of(culprit)}: {reason}") from error
        raise SerializationError(f"the backend's code cannot be pickled: {error}") from error
    search_path = [*search_path_of(*modules), *(() if surroundings is None else surroundings.search_path)]
    return _encode(FrozenCode(pickled, tuple(dict.fromkeys(search_path)), surroundings))


def _home_of(code: Any) -> str:
    """Return the name of the module that *code* is defined in, or that its import path names."""
    path = code.path if isinstance(code, Application) else code
    return path.partition(":")[0] if isinstance(path, str) else str(code.__module__)


def thaw_code(blob: bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return code, arguments and keyword arguments from `freeze_code`; *blob* must be trusted."""
    return FrozenCode.of(blob).thaw()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """cloudpickle's, which also knows the state that every Starlette application has.

    By itself that is written, but cannot be read: its `__getattr__` calls itself while it is empty.

    Attributes:
        modules: Names of the modules that functions and classes in the pickle are from.
    """

    def __init__(self, file: Any, modules: dict[str, None]) -> None:
        super().__init__(file)
        self.modules = modules

    def reducer_override(self, value: Any) -> Any:
        """Return how *value* is rebuilt, or leave that to cloudpickle."""
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            self.modules[str(value.__module__)] = None
        elif isinstance(value, types.ModuleType):
            self.modules[value.__name__] = None
        return (State, (value._state,)) if type(value) is State else super().reducer_override(value)


def _pickled(value: object, modules: dict[str, None]) -> bytes:
    share_class_register()
    buffer = io.BytesIO()
    _Pickler(buffer, modules).dump(value)
    return buffer.getvalue()
