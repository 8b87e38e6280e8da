"""Digests: equal for equal values, different for different ones, and the same in every process."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.user_code.fingerprint import digest
from tests.support.programs import run_program

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    PLAIN | st.frozensets(HASHABLE),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(HASHABLE, inner),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_values_have_one_digest_exactly_if_they_are_the_same(one: Any, other: Any) -> None:
    """Of the same types too: 1, 1.0 and True are three values."""
    assert (digest(one) == digest(other)) == (_typed(one) == _typed(other))


@given(st.dictionaries(HASHABLE, PLAIN))
def test_the_order_of_a_dict_is_nothing(value: dict[Any, Any]) -> None:
    """It is not what a mapping says."""
    assert digest(value) == digest(dict(reversed(list(value.items()))))


@given(st.lists(st.text() | st.lists(st.text())))
def test_neighbours_do_not_run_into_each_other(values: list[Any]) -> None:
    """A list in a list is another value than its items."""
    assert digest(values) != digest([values])
    assert digest(*values, "") != digest(*values)


class Settings:
    """An object whose content is its attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def test_objects_have_one_digest_if_their_content_is_the_same() -> None:
    """Neither the order of attributes nor shared parts count, as they do in a pickle."""
    shared = [1, 2]
    assert digest(Settings(a=1, b=2)) == digest(Settings(b=2, a=1))
    assert digest(Settings(a=shared, b=shared)) == digest(Settings(a=[1, 2], b=[1, 2]))
    assert digest(Settings(a=1)) != digest(Settings(a=2))
    assert digest(np.arange(3)) == digest(np.arange(3)) != digest(np.arange(4))


def test_a_value_within_itself_has_a_digest() -> None:
    """It ends."""
    one, other = Settings(), Settings()
    one.me, other.me = one, other  # type: ignore[attr-defined]
    assert digest(one) == digest(other)


def test_other_processes_agree() -> None:
    """Though their sets of text have another order."""
    program = """
        from serve_bridge.user_code.fingerprint import digest
        print(digest({"names": {"ada", "bob", "cy", "dan"}, "size": 1.5}, len, dict))
    """
    values = {"names": {"ada", "bob", "cy", "dan"}, "size": 1.5}
    assert run_program(program).strip() == digest(values, len, dict)


def _typed(value: Any) -> Any:
    """Return *value* with the type of everything in it, comparable."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, frozenset((_typed(key), _typed(item)) for key, item in value.items())
    if isinstance(value, frozenset):
        return kind, frozenset(_typed(item) for item in value)
    if isinstance(value, list | tuple):
        return kind, tuple(_typed(item) for item in value)
    return kind, repr(value)


NOTEBOOK = """
import abc, dataclasses, enum, functools
import pydantic

LIMIT = 3

def helper(value):
    return value + LIMIT

def logged(func):
    @functools.wraps(func)
    def logging(*args):
        return func(*args)
    return logging

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int = 0

class Given(pydantic.BaseModel):
    n: int = pydantic.Field(gt=1)

class Base(abc.ABC):
    @abc.abstractmethod
    def other(self): ...

class Model(Base):
    table = {"f": lambda x: x + 1, "names": {"ada", "bob", "cy"}}

    @logged
    def __call__(self, request):
        return helper(1), Color.RED, Point(), Given

    @property
    def size(self):
        return (lambda: 10)()

    @staticmethod
    def many():
        return [helper(x) for x in range(5)]

    def other(self): ...
"""
DIGEST = """
    import sys
    from serve_bridge.user_code.fingerprint import digest
    for source in sys.argv[1:]:
        exec(compile(source, f"cell-{id(source)}", "exec"))
        print(digest(Model))
"""


FORWARD = """
def takes(value: Later) -> int:
    return 1

class Later:
    item: Still
    later: Missing = 1

class Still: ...

class Model:
    takes = staticmethod(takes)
    later = Later
"""


if sys.version_info < (3, 14):  # where annotations are evaluated at once
    FORWARD = f"from __future__ import annotations\n{FORWARD}"


def test_annotations_of_code_without_a_file_count() -> None:
    """Annotations that name a later class, or a missing one, have a digest, and each annotation counts."""
    changes = [("value: Later", "value: Still"), ("item: Still", "item: int"), ("-> int", "-> str")]
    changed = [FORWARD.replace(old, new) for old, new in changes]
    unchanged, *others = run_program(DIGEST, FORWARD, *changed).split()
    assert unchanged == run_program(DIGEST, FORWARD).strip()
    assert len({unchanged, *others}) == 1 + len(changes)


def test_code_without_a_file_counts_by_its_content() -> None:
    """The same cell has one digest, wherever it is and in every process; a change anywhere in it has another."""
    changes = [
        ("LIMIT = 3", "LIMIT = 4"),
        ("value + LIMIT", "value - LIMIT"),
        ("return func(*args)", "return func(*args) or 1"),
        ("RED = 1", "RED = 2"),
        ("x: int = 0", "x: int = 1"),
        ("gt=1", "gt=2"),
        ("x + 1", "x + 2"),
        ('"cy"', '"dan"'),
        ("lambda: 10", "lambda: 11"),
        ("range(5)", "range(6)"),
        ("Model(Base)", "Model"),
    ]
    changed = [NOTEBOOK.replace(old, new) for old, new in changes]
    unchanged, moved, *others = run_program(DIGEST, NOTEBOOK, f"\n\n{NOTEBOOK}", *changed).split()
    assert unchanged == moved == run_program(DIGEST, NOTEBOOK).strip()
    assert len({unchanged, *others}) == 1 + len(changes)
