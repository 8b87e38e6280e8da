"""A backend's code on its way to a replica: frozen in the caller, thawed in the replica.

Rule 1: only this module and `wire.payload` unpickle. The code comes from the instance's own controller, over an
        authenticated connection. No bytes of an HTTP request get here.
Rule 2: an error names the path to the object which cannot be pickled, and its type. Only the caller sees the error.
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
    """A backend's code, with the steps of a replica before it thaws the code.

    Attributes:
        pickled: The code and the arguments of its constructor.
        search_path: The directories in which imports look first.
        surroundings: The surroundings of the code; None: it has none.
    """

    pickled: bytes
    search_path: tuple[str, ...] = ()
    surroundings: SurroundingsSpec | None = None

    @classmethod
    def of(cls, blob: bytes) -> FrozenCode:
        """Return the result of `freeze_code` without thawing the code."""
        return _decode(blob)

    def thaw(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return code, arguments and keyword arguments. The source of the pickle must be trusted."""
        code: tuple[Any, tuple[Any, ...], dict[str, Any]] = _Unpickler(io.BytesIO(self.pickled)).load()
        return code


class _Unpickler(pickle.Unpickler):
    """The unpickler of pickle, but it does not wait for a module while another thread imports it.

    A module may create a backend from its own function during its import, as `uvicorn main:app` imports `main`. With
    the local runtime, the importing thread waits for the replica, and the replica would wait for the import: a
    deadlock.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the object *name* of *module*."""
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

    The bytes include the directories for the imports of the replica. They cover the module of the code, and each module
    to which the code or an argument refers.

    Raises:
        SerializationError: An object in the code or the arguments cannot be pickled; the message names the path to it.
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
    """Return the name of the module which defines *code*, or which its import path names."""
    path = code.path if isinstance(code, Application) else code
    return path.partition(":")[0] if isinstance(path, str) else str(code.__module__)


def thaw_code(blob: bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return code, arguments and keyword arguments from `freeze_code`; *blob* must be trusted."""
    return FrozenCode.of(blob).thaw()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """The pickler of cloudpickle, with a way to pickle the `State` of a Starlette application.

    Without it, unpickling would fail: `__getattr__` of an empty `State` calls itself without end.

    Attributes:
        modules: Names of the modules of functions and classes in the pickle.
    """

    def __init__(self, file: Any, modules: dict[str, None]) -> None:
        super().__init__(file)
        self.modules = modules

    def reducer_override(self, value: Any) -> Any:
        """Return the way to rebuild *value*: here for a `State`, otherwise by cloudpickle."""
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
