"""A front, and the abilities that a test may need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final, TypeVar

from serve_bridge.client.client import Client

NEEDS: Final[Mapping[str, str]] = {
    "chunked uploads": "a body without a Content-Length is accepted; wsgiref refuses it",
    "streamed uploads": "a body is forwarded while it arrives",
    "duplex": "an answer is sent while the body still arrives; this takes two threads, or an event loop",
    "early answers": "a refusal because of the Content-Length, or an answer, is sent before the body arrives",
    "early heads": "the head of an answer is sent before the first byte of its body; PEP 3333 forbids that",
    "disconnects": "the server reports a client that leaves before the answer has begun",
    "websockets": "the server passes WebSockets to the application",
}
"""Abilities that a test may need, and that a framework or its interface may lack."""

_Test = TypeVar("_Test", bound=Callable[..., None])


def needs(what: str) -> Callable[[_Test], _Test]:
    """Mark a test that needs the ability *what*, one of `NEEDS`."""
    if what not in NEEDS:
        raise ValueError(f"{what!r} is not an ability; known: {', '.join(NEEDS)}")

    def mark(test: _Test) -> _Test:
        test.__dict__["_needs"] = what
        return test

    return mark


class Front:
    """A front: an app or a server that answers HTTP for endpoints.

    Attributes:
        lacks: Abilities of `NEEDS` that the front lacks, each with the reason. Tests that need them are not collected.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @contextmanager
    def front(cls, client: Client) -> Iterator[str]:
        """Serve the `ROUTES`; yield the base URL."""
        raise NotImplementedError
        yield

    @classmethod
    def what_is_lacking(cls) -> frozenset[str]:
        """Return the abilities that collected tests must not need."""
        return frozenset(cls.lacks)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Remove the tests that need an ability the front lacks."""
        super().__init_subclass__(**kwargs)
        for unknown in cls.lacks.keys() - NEEDS.keys():
            raise ValueError(f"{cls.__name__}.lacks: {unknown!r} is not an ability; known: {', '.join(NEEDS)}")
        lacking = cls.what_is_lacking()
        for name in dir(cls):
            if getattr(getattr(cls, name), "_needs", None) in lacking:
                setattr(cls, name, None)
