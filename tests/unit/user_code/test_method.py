"""What a method receives, how it runs, and which calls of it are wrong."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from starlette.requests import Request

from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.user_code.batch_marks import accept_batch
from serve_bridge.user_code.method import Method
from serve_bridge.user_code.validation import check_signature

if TYPE_CHECKING:
    from nowhere import Unknown


def method_of(func: Any) -> Method:
    """Return a function as the bound method `m` of an instance."""
    return Method.of("m", types.MethodType(func, object()), default=False)


def test_call_receives_the_request_whatever_its_parameter_is_called() -> None:
    """`__call__`, and a function, get the request alone."""
    for func in (lambda x: x, lambda *args: args, lambda x, y=1: x):
        method = Method.of("__call__", func, default=True)
        assert method.takes == "request"
        assert method.arguments("the request", {"a": 1}) == (("the request",), {})


def test_call_without_parameters_is_called_without() -> None:
    """A function that wants nothing gets nothing, and a request may come all the same."""
    for func in (lambda: 1, lambda **kw: 1):
        method = Method.of("__call__", func, default=True)
        assert method.takes == "nothing"
        assert method.arguments("data", {"a": 1}) == ((), {})


def _takes_request(self: Any, request: Any) -> None: ...
def _takes_web_request(self: Any, web_request: Any) -> None: ...
def _takes_starlette(self: Any, r: Request) -> None: ...
def _takes_serve(self: Any, r: ServeRequest) -> None: ...
def _takes_either(self: Any, r: Request | ServeRequest | None) -> None: ...
def _takes_annotated(self: Any, r: Annotated[Request, "x"]) -> None: ...
def _takes_beside_unknown(self: Any, r: Request, other: Unknown = None) -> None: ...
def _takes_inc(self: Any, inc: int) -> None: ...
def _takes_unknown(self: Any, inc: Unknown) -> None: ...
def _takes_text(self: Any, inc: str, request: Any = None) -> None: ...
def _takes_everything(self: Any, *args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("func", "takes"),
    [
        (_takes_request, "request"),
        (_takes_web_request, "request"),
        (_takes_starlette, "request"),
        (_takes_serve, "request"),
        (_takes_either, "request"),
        (_takes_annotated, "request"),
        (_takes_beside_unknown, "request"),
        (_takes_inc, "data"),
        (_takes_unknown, "data"),
        (_takes_text, "data"),
        (_takes_everything, "data"),
        (lambda self: 1, "nothing"),
        (lambda self, *, flag=1: 1, "nothing"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_signature_decides_between_request_and_data(func: Any, takes: str) -> None:
    """A name or an annotation asks for the request; anything else gets the data."""
    assert method_of(func).takes == takes


def test_a_batched_method_receives_requests() -> None:
    """Marked methods get a list of requests, whatever their parameter is called."""
    method = method_of(accept_batch(lambda self, inputs: inputs))
    assert (method.batched, method.takes) == (True, "request")


@pytest.mark.parametrize(
    ("func", "data", "kwargs", "expected"),
    [
        (lambda self, inc: 1, 5, {}, ((5,), {})),
        (lambda self, inc: 1, None, {}, ((None,), {})),
        (lambda self, inc=1: 1, None, {}, ((), {})),
        (lambda self, inc: 1, None, {"inc": 5}, ((), {"inc": 5})),
        (lambda self, inc, by=1: 1, 5, {"by": 2}, ((5,), {"by": 2})),
        (lambda self, inc, *, by: 1, 5, {"by": 2}, ((5,), {"by": 2})),
        (lambda self, inc, **more: 1, 5, {"x": 2}, ((5,), {"x": 2})),
        (lambda self, *args: 1, None, {}, ((), {})),
        (lambda self, *args: 1, 5, {}, ((5,), {})),
        (lambda self: 1, None, {}, ((), {})),
        (lambda self, *, by: 1, None, {"by": 2}, ((), {"by": 2})),
        (lambda self, inc, /, **more: 1, 5, {"inc": 2}, ((5,), {"inc": 2})),
    ],
)
def test_data_and_keywords_become_arguments(func: Any, data: Any, kwargs: Any, expected: Any) -> None:
    """The data is the first argument, the call's keywords stay keywords, a default stands in for no data."""
    method = method_of(func)
    assert method.arguments(data, kwargs) == expected
    args, keywords = expected
    method.func(*args, **keywords)


@pytest.mark.parametrize(
    ("func", "data", "kwargs", "words"),
    [
        (lambda self: 1, 5, {}, "takes no data"),
        (lambda self: 1, None, {"a": 1}, "no keyword 'a'"),
        (lambda self, inc: 1, 5, {"by": 1}, "no keyword 'by'"),
        (lambda self, inc: 1, 5, {"inc": 1}, "twice"),
        (lambda self, inc, by: 1, 5, {}, "needs the keyword 'by'"),
        (lambda self, *, by: 1, None, {}, "needs the keyword 'by'"),
        (lambda self, inc, /: 1, 5, {"inc": 1}, "no keyword 'inc'"),
    ],
)
def test_a_wrong_call_is_the_callers_type_error(func: Any, data: Any, kwargs: Any, words: str) -> None:
    """What the signature does not allow is refused before user code runs, as a call by hand would be."""
    method = method_of(func)
    with pytest.raises(TypeError, match=words):
        method.arguments(data, kwargs)
    with pytest.raises(TypeError):
        method.func(*(() if data is None else (data,)), **kwargs)


def _plain(self: Any, x: Any) -> None: ...
async def _asynchronous(self: Any, x: Any) -> None: ...
def _generator(self: Any, x: Any) -> Iterator[int]:
    yield 1


async def _async_generator(self: Any, x: Any) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("func", "is_async", "is_generator"),
    [
        (_plain, False, False),
        (_asynchronous, True, False),
        (_generator, False, True),
        (_async_generator, True, True),
    ],
)
def test_how_a_method_runs_is_known_before_it_is_called(func: Any, is_async: bool, is_generator: bool) -> None:
    """Kind and marks are read once."""
    method = method_of(func)
    assert (method.is_async, method.is_generator, method.batched) == (is_async, is_generator, False)


@pytest.mark.parametrize("func", [lambda a, b: 1, lambda *, a: 1, lambda a, *, b: 1])
def test_more_than_the_request_can_only_be_asked_for_by_a_named_method(func: Any) -> None:
    """Nobody passes keywords to a function or a `__call__`; to other methods callers do."""
    check_signature("m", func, default=False)
    with pytest.raises(TypeError, match="with the request alone"):
        check_signature("m", func)
