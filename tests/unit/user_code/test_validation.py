"""What may be a backend, with which options, and what of it can be called."""

from __future__ import annotations

import abc
import asyncio
import functools
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.errors import ConfigError
from serve_bridge.replica.loaded_code import LoadedCode
from serve_bridge.user_code.batch_decorator import batch
from serve_bridge.user_code.batch_marks import accept_batch
from serve_bridge.user_code.frozen_code import freeze_code
from serve_bridge.user_code.served_methods import is_async_code
from serve_bridge.user_code.validation import check_backend_code, check_batching, check_config


def echo(request: Any) -> Any:
    """Return the request."""
    return request


async def async_echo(request: Any) -> Any:
    """Return the request."""
    return request


class Counter:
    """The seed's example, with a base of its own."""

    def __init__(self, start: int = 1) -> None:
        self.count = start

    def __call__(self, request: Any) -> dict[str, int]:
        """Return the count."""
        return {"current": self.count}

    def other_method(self, inc: int) -> bool:
        """Add to the count."""
        self.count += inc
        return True


class Abstract(abc.ABC):
    """A class that cannot be made."""

    @abc.abstractmethod
    def __call__(self, request: Any) -> Any:
        """Do something."""


class AsyncInit:
    """A class whose constructor would never run."""

    async def __init__(self) -> None: ...  # type: ignore[misc]

    def __call__(self) -> None:
        """Do nothing."""


class GeneratorInit:
    """A class whose constructor would never run."""

    def __init__(self) -> Iterator[int]:  # type: ignore[misc]
        yield 1

    def __call__(self) -> None:
        """Do nothing."""


class Empty:
    """A class with nothing to serve."""

    def _private(self) -> None: ...


class Meta(type):
    """A metaclass with a `__call__`, which is no `__call__` of its classes."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance."""
        return super().__call__(*args, **kwargs)


class OfMeta(metaclass=Meta):
    """A class without `__call__`."""

    def method(self) -> int:
        """Return one."""
        return 1


def loaded(code: Any, *args: Any, exposed: Any = None, **kwargs: Any) -> LoadedCode:
    """Return the code after its journey, constructed."""
    user_code = LoadedCode.load(freeze_code(code, args, kwargs), exposed_methods=exposed)
    user_code.construct()
    return user_code


# --- what may be a backend


@pytest.mark.parametrize(
    "code",
    [echo, async_echo, lambda request: 1, lambda: 1, lambda *a, **k: 1, Counter, OfMeta, "a.b:C", "a:B.c"],
)
def test_functions_classes_and_import_paths_are_backends(code: Any) -> None:
    """Lambdas and local classes are too; an import path is not resolved in the caller."""

    class Local:
        """A class of this function."""

        def __call__(self, request: Any) -> Any:
            """Return the request."""
            return request

    check_backend_code(code, (), {})
    check_backend_code(Local, (), {})


async def coroutine() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (Counter(), "Counter"),
        (functools.partial(echo), "partial"),
        (len, "len"),
        (dict, "dict"),
        (Counter().other_method, "bound method"),
        (Abstract, "abstract"),
        (5, "int"),
        (None, "NoneType"),
        (abc, "module abc"),
        (Empty, "nothing to serve"),
        (AsyncInit, "__init__"),
        (GeneratorInit, "__init__"),
    ],
)
def test_anything_else_is_a_type_error_that_names_it(code: Any, named: str) -> None:
    """The caller learns what it passed before anything starts."""
    with pytest.raises(TypeError, match=named):
        check_backend_code(code, (), {})


def test_a_coroutine_object_is_refused() -> None:
    """A forgotten pair of parentheses too many has its own words."""
    call = coroutine()
    with pytest.raises(TypeError, match="without calling it"):
        check_backend_code(call, (), {})
    call.close()


@pytest.mark.parametrize("path", ["", "a", "a.b", "a:b:c", ":a", "a:", "a b:c", "1a:b", "a/b:c", "a..b:c"])
def test_a_malformed_import_path_is_a_value_error(path: str) -> None:
    """The shape of an import path is checked at once."""
    with pytest.raises(ValueError, match=r"package\.module:Attr"):
        check_backend_code(path, (), {})


def test_a_function_with_constructor_arguments_is_a_value_error() -> None:
    """Only a class has a constructor."""
    with pytest.raises(ValueError, match="echo"):
        check_backend_code(echo, (1,), {})
    with pytest.raises(ValueError, match="echo"):
        check_backend_code(echo, (), {"a": 1})


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"end": 1}), ((1,), {"start": 1})])
def test_wrong_constructor_arguments_are_a_type_error(args: Any, kwargs: Any) -> None:
    """They are bound in the caller, where the mistake is."""
    with pytest.raises(TypeError, match="Counter"):
        check_backend_code(Counter, args, kwargs)


@pytest.mark.parametrize("code", [lambda a, b: 1, lambda *, a: 1, lambda a, *, b: 1])
def test_a_function_no_request_can_call_is_refused(code: Any) -> None:
    """What needs more than the request would fail on each call."""
    with pytest.raises(TypeError, match="needs"):
        check_backend_code(code, (), {})


def test_a_batched_generator_is_refused() -> None:
    """A batch is answered by a list."""

    @accept_batch
    def code(requests: Any) -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="batches"):
        check_backend_code(code, (), {})


# --- options against code


@accept_batch
def batched(requests: list[Any]) -> list[Any]:
    """Return the requests."""
    return requests


class Batched:
    """A class with one batched method."""

    @accept_batch
    def predict(self, requests: list[Any]) -> list[Any]:
        """Return the requests."""
        return requests


@pytest.mark.parametrize("code", [echo, Counter])
def test_a_batch_size_without_the_mark_is_a_value_error(code: Any) -> None:
    """Code that takes one request gets no lists."""
    with pytest.raises(ValueError, match="accept_batch"):
        check_batching(code, BackendConfig(max_batch_size=2))


@pytest.mark.parametrize(("code", "size"), [(batched, 2), (Batched, 2), (echo, 1), (echo, None), ("a:b", 2)])
def test_a_batch_size_that_fits_the_code_passes(code: Any, size: int | None) -> None:
    """Marked code takes any size, other code takes one."""
    check_batching(code, BackendConfig(max_batch_size=size))


def test_options_the_code_cannot_follow_are_value_errors() -> None:
    """A user_config needs `reconfigure`; exposed methods must exist, and a function has none."""
    with pytest.raises(ValueError, match="reconfigure"):
        check_config(Counter, BackendConfig(user_config={}))
    with pytest.raises(ValueError, match="missing"):
        check_config(Counter, BackendConfig(exposed_methods=["missing"]))
    with pytest.raises(ValueError, match="function"):
        check_config(echo, BackendConfig(exposed_methods=["a"]))


class AsyncCall:
    """An asynchronous class."""

    async def __call__(self) -> AsyncIterator[int]:
        """Yield one."""
        yield 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [(echo, False), (async_echo, True), (Counter, False), (AsyncCall, True), ("a:b", False)],
)
def test_async_code_is_known_by_its_call(code: Any, expected: bool) -> None:
    """`async def`, generators too, decides the default limit of a replica."""
    assert is_async_code(code) is expected


class AsyncMethods:
    """A class without `__call__` whose work is asynchronous, and which has a helper."""

    async def predict(self, data: int) -> int:
        """Return the data."""
        return data

    def tokens(self, text: str) -> list[str]:
        """Return the words."""
        return text.split()


@pytest.mark.parametrize(
    ("exposed", "expected"), [(None, True), (["predict"], True), (["predict", "tokens"], True), (["tokens"], False)]
)
def test_a_class_without_call_is_async_if_one_of_its_served_methods_is(
    exposed: list[str] | None, expected: bool
) -> None:
    """A plain helper does not make it a `def` backend; a method that is not served does not count."""
    assert is_async_code(AsyncMethods, exposed) is expected
    assert loaded(AsyncMethods, exposed=exposed).is_async is expected


# --- import paths


def test_import_paths_are_resolved_where_they_are_loaded() -> None:
    """The replica imports the module and calls what is there."""
    user_code = loaded(f"{__name__}:Counter", 5)
    assert user_code.code.__name__ == "Counter"
    assert user_code.methods["__call__"].func(None) == {"current": 5}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("no_such_module_here:x", ImportError),
        (f"{__name__}:missing", AttributeError),
        (f"{__name__}:__doc__", TypeError),
        (f"{__name__}:Abstract", TypeError),
    ],
)
def test_an_import_path_to_nothing_fails_where_it_is_loaded(path: str, error: type[Exception]) -> None:
    """What the caller could not check the replica does."""
    with pytest.raises(error):
        LoadedCode.load(freeze_code(path, (), {}))


# --- the replica's instance


def test_a_function_has_only_itself() -> None:
    """Nothing else of a function can be called."""
    user_code = loaded(echo)
    assert list(user_code.methods) == ["__call__"]
    assert (user_code.reconfigure, user_code.check_health) == (None, None)


class Returning:
    """A class whose constructor returns something."""

    def __init__(self) -> None:
        return 5  # type: ignore[return-value]

    def __call__(self) -> None:
        """Do nothing."""


class Other:
    """A class whose `__new__` makes something else."""

    def __new__(cls) -> Any:
        """Make an int."""
        return 5

    def __call__(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("code", [Returning, Other])
def test_a_constructor_that_makes_no_instance_is_a_type_error(code: Any) -> None:
    """A replica is an instance of the class it was asked for."""
    with pytest.raises(TypeError):
        loaded(code)


class Base:
    """A base class."""

    attribute = 5
    inner = Counter

    def inherited(self) -> str:
        """Return where this is."""
        return "base"

    def hidden(self) -> None:
        """Do nothing."""

    @property
    def prop(self) -> int:
        """Return one."""
        return 1


class BindingPartial(functools.partial[Any]):
    """Binds as `functools.partial` does in later versions of Python."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Return a bound method."""
        return self if instance is None else types.MethodType(self, instance)


class CallableAttribute:
    """Can be called and binds, but is not a function."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Return itself."""
        return self

    def __call__(self) -> None:
        """Do nothing."""


class Code(Base):
    """A class with every kind of attribute."""

    hidden = None  # type: ignore[assignment]
    callable_object = functools.partial(echo)
    binding_partial = BindingPartial(echo)
    wrapping_partial = functools.update_wrapper(BindingPartial(echo), echo)
    static_partial = staticmethod(BindingPartial(echo))
    static_builtin = staticmethod(len)
    static_class = staticmethod(int)
    binding_object = CallableAttribute()

    def __init__(self) -> None:
        self.own = lambda: 1

    def __call__(self, anything: Any) -> Any:
        """Return the argument."""
        return anything

    @staticmethod
    def static(data: int) -> int:
        """Add one."""
        return data + 1

    @classmethod
    def of_class(cls, data: int) -> tuple[str, int]:
        """Return the class's name and the data."""
        return cls.__name__, data

    @functools.lru_cache  # noqa: B019
    def cached(self, data: int) -> int:
        """Return the data."""
        return data

    @batch()
    async def joined(self, items: list[int]) -> list[int]:
        """Return the items."""
        return items

    def _private(self) -> None: ...

    def __dunder__(self) -> None: ...

    async def reconfigure(self, config: Any) -> None:
        """Take a new value."""

    def check_health(self) -> None:
        """Be healthy."""


def test_public_methods_of_the_class_and_its_bases_are_callable() -> None:
    """Inherited, static and class methods are; private names, hooks, properties and attributes are not."""
    methods = loaded(Code).methods
    assert set(methods) == {"__call__", "inherited", "static", "of_class", "cached", "joined"}
    assert methods["static"].func(1) == 2
    assert methods["of_class"].func(1) == ("Code", 1)
    assert methods["inherited"].func() == "base"
    assert methods["joined"].is_async


def test_hooks_are_bound() -> None:
    """`reconfigure` and `check_health` are the replica's to call."""
    user_code = loaded(Code)
    assert user_code.reconfigure is not None
    assert user_code.check_health is not None
    asyncio.run(user_code.reconfigure(1))


class Closing:
    """Has a hook for its end."""

    def __call__(self) -> None:
        """Do nothing."""

    def close(self, *, hard: bool = False) -> None:
        """End."""


class Door:
    """Has a method `close` of its own."""

    def close(self, door: str) -> str:
        """Return the door."""
        return door


def test_close_is_a_hook_unless_it_needs_arguments() -> None:
    """A hook is not callable from outside; a method of that name is no hook."""
    assert (set(loaded(Closing).methods), loaded(Closing).close is None) == ({"__call__"}, False)
    assert (set(loaded(Door).methods), loaded(Door).close) == ({"close"}, None)


def test_exposed_methods_are_exactly_those_and_call() -> None:
    """The list replaces the default set."""
    assert set(loaded(Code, exposed=["static"]).methods) == {"__call__", "static"}
    assert set(loaded(Code, exposed=[]).methods) == {"__call__"}


@pytest.mark.parametrize("name", ["_private", "__init__", "missing", "prop", "attribute"])
def test_exposing_what_is_no_public_method_is_a_config_error(name: str) -> None:
    """A misspelt or private name never becomes reachable."""
    with pytest.raises(ConfigError, match=name):
        loaded(Code, exposed=[name])


def test_methods_of_builtin_bases_are_not_reachable() -> None:
    """A backend that is a dict too does not serve `clear`."""

    class Table(dict[str, int]):
        """A dict that is a backend too."""

        def lookup(self, key: str) -> int:
            """Return the item."""
            return self[key]

    assert set(loaded(Table).methods) == {"lookup"}


def test_a_metaclass_does_not_lend_its_call() -> None:
    """A class without `__call__` has none."""
    assert set(loaded(OfMeta).methods) == {"method"}


def test_the_seeds_other_method_adds() -> None:
    """The seed's class answers as its page says."""
    methods = loaded(Counter).methods
    args, kwargs = methods["other_method"].arguments(5, {})
    assert methods["other_method"].func(*args, **kwargs) is True
    assert methods["__call__"].func(None) == {"current": 6}
