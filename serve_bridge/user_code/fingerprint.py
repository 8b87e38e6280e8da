"""Digests which agree between processes, to find out whether code and its start arguments have changed.

Rule 1: values of builtin types count by their content. A pickle or a hash of them could depend on the process.
Rule 2: code of a module with a file counts by its name. Code without a file, as in a notebook, counts by its content:
    its instructions and the variables that it uses.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import cloudpickle

from serve_bridge.process.pickling_errors import PICKLING_ERRORS

__all__ = ["closed_over", "digest"]


def digest(*values: object) -> str:
    """Return a digest of *values*, the same in every process for values with the same content.

    The content of an object is the value from which pickle would rebuild it. If an object cannot give such a value, its
    whole pickle counts, and may differ between equal objects.
    """
    walk = _Walk()
    parts = _parts(values, walk)
    contents: list[list[bytes]] = []
    while walk.codes:
        _, code = walk.codes.popitem()
        contents.append(_code_parts(code, walk))
    found = hashlib.sha256()
    for part in [*parts, *_joined(sorted(contents))]:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


class _Walk:
    """The progress of a digest.

    Attributes:
        open: Ids of the values around the current value.
        codes: Classes and functions without a file whose content is not counted yet, by id.
    """

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.codes: dict[int, Any] = {}
        self._met: dict[int, Any] = {}

    def meet(self, code: Any) -> None:
        """Count the content of *code* once, even if several values refer to it."""
        if id(code) not in self._met:
            self._met[id(code)] = self.codes[id(code)] = code


def _parts(value: Any, walk: _Walk) -> list[bytes]:
    """Return *value* as a flat list of bytes which differs from the list of any other value."""
    kind = type(value)
    label = f"{kind.__module__}.{kind.__qualname__}".encode()
    if kind is bytes:
        return [label, value]
    if value is None or kind in (bool, int, float, complex, str):
        return [label, repr(value).encode("utf-8", "backslashreplace")]
    if inspect.isclass(value) or isinstance(value, _ROUTINES):
        if _has_no_file(value):
            walk.meet(value)
        return [label, str(getattr(value, "__module__", None)).encode(), value.__qualname__.encode()]
    if kind is types.ModuleType:
        return [label, value.__name__.encode()]
    if id(value) in walk.open:
        return [label, b"a value within itself"]
    walk.open.add(id(value))
    try:
        if isinstance(value, Mapping):
            items = sorted((_parts(key, walk), _parts(item, walk)) for key, item in value.items())
            return [b"mapping", *_joined(side for pair in items for side in pair)]
        if kind in (list, tuple):
            return [label, *_joined(_parts(item, walk) for item in value)]
        if kind in (set, frozenset):
            return [label, *_joined(sorted(_parts(item, walk) for item in value))]
        if kind is property:
            return [label, *_parts((value.fget, value.fset, value.fdel), walk)]
        if kind in (classmethod, staticmethod):
            return [label, *_parts(value.__func__, walk)]
        if kind is types.CodeType:
            return [label, *_parts(tuple(getattr(value, name) for name in _CODE), walk)]
        return [label, *_object_parts(value, walk)]
    finally:
        walk.open.discard(id(value))


def _object_parts(value: Any, walk: _Walk) -> list[bytes]:
    try:
        reduced = value.__reduce_ex__(4)
    except PICKLING_ERRORS:  # pickle cannot rebuild it, but cloudpickle may
        return [cloudpickle.dumps(value)]
    if isinstance(reduced, str):  # the name of a global
        return [reduced.encode()]
    listed = [list(part) if isinstance(part, Iterator) else part for part in reduced]
    return _joined(_parts(part, walk) for part in listed)


def _joined(members: Iterable[list[bytes]]) -> list[bytes]:
    found = list(members)
    return [str(len(found)).encode(), *(part for member in found for part in (str(len(member)).encode(), *member))]


_ROUTINES: Final = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
_CODE: Final = (
    "co_code",
    "co_consts",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_flags",
    "co_exceptiontable",
)
"""Attributes of a code object for its content, without those for its place in a file."""
_NOT_CONTENT: Final = frozenset(
    (
        "__dict__",
        "__weakref__",
        "__firstlineno__",
        "__static_attributes__",
        "__signature__",
        "__annotations_cache__",
        "_abc_impl",
        # Made from the fields, with memory addresses of this process in them.
        "__pydantic_core_schema__",
        "__pydantic_parent_namespace__",
        "__pydantic_serializer__",
        "__pydantic_validator__",
    )
)
"""Attributes of a class which do not come from its definition, or follow from other attributes."""
_GLOBAL: Final = frozenset(
    ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")  # the last: annotations
)
_OWN_NAMESPACE: Final = "__classdict__"
"""The variable by which annotations see the namespace of their class. Its attributes are counted already."""


def _code_parts(code: Any, walk: _Walk) -> list[bytes]:
    """Return the content of a function or class as a flat list of bytes."""
    name = [str(code.__module__).encode(), code.__qualname__.encode()]
    if inspect.isclass(code):
        attributes = {name: item for name, item in vars(code).items() if name not in _NOT_CONTENT}
        return [*name, *_parts((type(code), code.__bases__, attributes), walk)]
    if inspect.ismethod(code):
        return [*name, *_parts((code.__func__, code.__self__), walk)]
    closure = zip(code.__code__.co_freevars, code.__closure__ or (), strict=True)
    cells = [cell.cell_contents for name, cell in closure if name != _OWN_NAMESPACE and not _is_empty(cell)]
    known = code.__globals__
    used = {name: known[name] for name in _global_names(code.__code__) if name in known}
    # Since Python 3.14, annotations are a function. Its call fails if an annotation has a name not defined yet.
    annotations = getattr(code, "__annotate__", None) or code.__annotations__
    own = (code.__code__, code.__defaults__, code.__kwdefaults__, annotations, vars(code))
    return [*name, *_parts((*own, cells, used), walk)]


def _global_names(code: types.CodeType) -> set[str]:
    found = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL}
    return found.union(*(_global_names(each) for each in code.co_consts if isinstance(each, types.CodeType)))


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # an empty cell raises an error
    except ValueError:
        return True
    return False


def _has_no_file(code: Any) -> bool:
    """Return whether *code* is Python code without a file: from a notebook, `python -c`, or made at run time."""
    if not (inspect.isfunction(code) or inspect.ismethod(code) or inspect.isclass(code)):
        return False
    name = code.__module__
    if name in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not Path(file).exists()


def closed_over(code: Any) -> list[Mapping[str, Any]]:
    """Return the variables of the enclosing function that *code* uses; an empty list if there is no such function."""
    if "<locals>" not in code.__qualname__:
        return []
    members = vars(code).values() if inspect.isclass(code) else (code,)
    functions = [getattr(member, "__func__", member) for member in members]
    return [inspect.getclosurevars(func).nonlocals for func in functions if inspect.isfunction(func)]
