"""How a backend's code travels, and what a failure to pickle it says."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from starlette.applications import Starlette

import serve_bridge as serve
from serve_bridge import asgi_app
from serve_bridge.errors import SerializationError
from serve_bridge.user_code.frozen_code import freeze_code, thaw_code
from serve_bridge.user_code.unpicklable import unpicklable_path


class Code:
    """A backend."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


def test_code_and_arguments_travel() -> None:
    """Lambdas and arguments come out as they went in."""
    code, args, kwargs = thaw_code(freeze_code(lambda request: request + 1, (1,), {"a": [2]}))
    assert (code(1), args, kwargs) == (2, (1,), {"a": [2]})


def test_code_that_uses_this_package_travels() -> None:
    """A function of a script is pickled with its globals, and the package is one of them."""
    code, _, _ = thaw_code(freeze_code(lambda: serve, (), {}))
    assert code() is serve


class Holder:
    """An object with a lock inside."""

    def __init__(self) -> None:
        self.inner = [1, threading.Lock()]

    def method(self) -> None:
        """Do nothing."""


class Slotted:
    """An object with a lock in a slot."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), "init_args[1]"),
        ({"lock": threading.Lock()}, "init_args[1]['lock']"),
        ([0, {"a": (iter(()), (n for n in ()))}], "init_args[1][1]['a'][1]"),
        (Holder(), "init_args[1].inner[1]"),
        (Slotted(), "init_args[1].lock"),
        (Holder().method, "init_args[1].__self__.inner[1]"),
    ],
    ids=["top", "dict", "nested", "attribute", "slot", "method"],
)
def test_an_unpicklable_argument_is_named_by_its_path(value: Any, path: str) -> None:
    """The error says where in the object the trouble is."""
    with pytest.raises(SerializationError) as caught:
        freeze_code(Code, (0, value), {})
    assert str(caught.value).startswith(f"{path} cannot be pickled")


def test_an_unpicklable_keyword_or_closure_is_named() -> None:
    """Keyword arguments and what a function closes over are searched too."""
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"init_kwargs\['lock'\]"):
        freeze_code(Code, (), {"lock": lock})
    with pytest.raises(SerializationError, match="func_or_class variable 'lock'"):
        freeze_code(lambda request: lock, (), {})


def test_a_cycle_or_great_depth_does_not_stop_the_search() -> None:
    """The search ends, whatever the shape."""
    cycle: list[Any] = [threading.Lock()]
    cycle.insert(0, cycle)
    assert unpicklable_path(cycle, "value") is not None
    deep: list[Any] = [threading.Lock()]
    for _ in range(200):
        deep = [deep]
    assert unpicklable_path(deep, "value") is not None
    assert unpicklable_path([1, {"a": 2}], "value") is None


def test_a_starlette_application_without_a_name_travels_with_its_state() -> None:
    """Its `State` cannot be unpickled by itself: it looks for itself in itself."""
    app = Starlette()
    app.state.greeting = "hello"
    code, _, _ = thaw_code(freeze_code(asgi_app(app), (), {}))
    assert code.load().state.greeting == "hello"
