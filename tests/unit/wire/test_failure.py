"""Exceptions there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import BackendError, DeadlineExceeded, EndpointNotFound, ProtocolError
from serve_bridge.wire import failure


class TwoArguments(Exception):
    """Cannot be rebuilt from its `args`."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class Speechless(Exception):
    """Says nothing."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unpicklable(Exception):
    """Refuses to travel."""

    def __reduce__(self) -> tuple[object, ...]:
        raise RuntimeError("not me")


class Ending(Exception):
    """Ends a process by its methods."""

    def __str__(self) -> str:
        raise SystemExit(3)

    def __reduce__(self) -> tuple[object, ...]:
        raise KeyboardInterrupt


def travelled(error: BaseException) -> BaseException:
    """Return an exception after its way."""
    return failure.unpack(failure.pack(error))


def raised(error: Exception) -> Exception:
    """Return an exception with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("k"),
        EndpointNotFound("e", ["a"]),
        DeadlineExceeded("late", "no"),
    ],
    ids=repr,
)
def test_an_exception_comes_back_as_its_own_type(error: BaseException) -> None:
    """With its arguments, and the fields of ours."""
    back = travelled(error)
    assert (type(back), back.args) == (type(error), error.args)
    assert getattr(back, "executed", None) == getattr(error, "executed", None)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_would_end_the_caller_arrives_as_text(error: BaseException) -> None:
    """A backend ends no process but its own."""
    back = travelled(error)
    assert isinstance(back, BackendError)
    assert back.type_name == type(error).__name__


def test_the_remote_traceback_is_the_cause() -> None:
    """A printed traceback shows where it happened."""
    back = travelled(raised(ValueError("bad")))
    assert "in raised" in str(back.__cause__)


@pytest.mark.parametrize("error", [TwoArguments("a", "b"), Unpicklable("u"), Speechless(), Ending()], ids=repr)
def test_an_exception_that_cannot_travel_arrives_as_text(error: Exception) -> None:
    """It costs its type, never the answer."""
    back = travelled(error)
    if type(back) is not type(error):
        assert isinstance(back, BackendError)
        assert back.type_name == type(error).__name__


def test_an_exception_whose_pickle_is_broken_keeps_name_and_text() -> None:
    """`BackendError` says both."""
    back = travelled(raised(TwoArguments("hello", "x")))
    assert isinstance(back, BackendError)
    assert (back.type_name, back.text) == ("TwoArguments", "hello")
    assert "raise error" in back.remote_traceback


@given(st.text(st.characters(categories=["L", "Cs"])))
def test_any_text_travels(text: str) -> None:
    """Half of a surrogate pair too, as in the name of an undecodable file."""
    assert isinstance(travelled(Unpicklable(text)), BackendError)


def test_a_long_failure_can_be_cut() -> None:
    """The end of the traceback is what tells most."""
    error = raised(ValueError("x" * 10_000_000))
    data = failure.pack_short(error)
    back = failure.unpack(data)
    assert len(data) < 100_000
    assert isinstance(back, BackendError)
    assert back.type_name == "ValueError"


@given(st.binary(max_size=50))
def test_bytes_that_are_no_failure_are_a_protocol_error(data: bytes) -> None:
    """Whatever a peer sends."""
    with pytest.raises(ProtocolError):
        failure.unpack(b"\xc1" + data)
