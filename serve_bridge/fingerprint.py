"""Whether code, and what it is started with, is still the same: digests that agree between processes.

Rule 1: values of the builtin types count by what they are, wherever a pickle or a hash would depend on the process.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cloudpickle

from serve_bridge.errors import PICKLING_ERRORS

__all__ = ["closed_over", "digest"]


def digest(*values: object) -> str:
    """Return a digest of *values*, the same in every process for values of the same content.

    The content of an object is what pickle would rebuild it from. Where an object cannot say that, its whole pickle
    counts, which may differ between equal objects.
    """
    found = hashlib.sha256()
    for part in _parts(values, set()):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def _parts(value: Any, open_: set[int]) -> list[bytes]:
    """Return *value* as a flat list of bytes that no other value has; *open_* are the values that it is part of."""
    kind = type(value)
    label = f"{kind.__module__}.{kind.__qualname__}".encode()
    if kind is bytes:
        return [label, value]
    if value is None or kind in (bool, int, float, complex, str):
        return [label, repr(value).encode("utf-8", "backslashreplace")]
    if inspect.isclass(value) or inspect.isroutine(value):
        return [label, str(value.__module__).encode(), value.__qualname__.encode()]
    if id(value) in open_:
        return [label, b"a value within itself"]
    open_.add(id(value))
    try:
        if isinstance(value, Mapping):
            items = sorted((_parts(key, open_), _parts(item, open_)) for key, item in value.items())
            return [b"mapping", *_joined(side for pair in items for side in pair)]
        if kind in (list, tuple):
            return [label, *_joined(_parts(item, open_) for item in value)]
        if kind in (set, frozenset):
            return [label, *_joined(sorted(_parts(item, open_) for item in value))]
        return [label, *_object_parts(value, open_)]
    finally:
        open_.discard(id(value))


def _object_parts(value: Any, open_: set[int]) -> list[bytes]:
    try:
        reduced = value.__reduce_ex__(4)
    except PICKLING_ERRORS:  # it has no form of its own; cloudpickle may know one
        return [cloudpickle.dumps(value)]
    if isinstance(reduced, str):  # the name of a global
        return [reduced.encode()]
    listed = [list(part) if isinstance(part, Iterator) else part for part in reduced]
    return _joined(_parts(part, open_) for part in listed)


def _joined(members: Iterable[list[bytes]]) -> list[bytes]:
    found = list(members)
    return [str(len(found)).encode(), *(part for member in found for part in (str(len(member)).encode(), *member))]


def closed_over(code: Any) -> list[Mapping[str, Any]]:
    """Return the variables that *code*, if it is local to a function, has from there."""
    if "<locals>" not in code.__qualname__:
        return []
    members = vars(code).values() if inspect.isclass(code) else (code,)
    functions = [getattr(member, "__func__", member) for member in members]
    return [inspect.getclosurevars(func).nonlocals for func in functions if inspect.isfunction(func)]
