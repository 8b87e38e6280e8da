"""A front, and what its tests may need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final, TypeVar

from serve_bridge.client.client import Client

NEEDS: Final[Mapping[str, str]] = {
    "chunked uploads": "bodies without a Content-Length, which wsgiref takes none of",
    "streamed uploads": "the body is forwarded while it comes",
    "duplex": "what there is of an answer leaves while more of the body is awaited, which takes two threads, or none",
    "early answers": "a refusal by the Content-Length, or an answer, leaves before the body has come",
    "early heads": "the head of an answer leaves before any of its body, which PEP 3333 forbids",
    "disconnects": "the server says that the client has left while the answer has not begun",
    "websockets": "the server hands over WebSockets",
}
"""What a test may need and a framework, or its interface, may lack."""

_Test = TypeVar("_Test", bound=Callable[..., None])


def needs(what: str) -> Callable[[_Test], _Test]:
    """Mark a test: it is there only for adapters that do not lack *what*, one of `NEEDS`."""
    if what not in NEEDS:
        raise ValueError(f"{what!r} is nothing a test may need; known: {', '.join(NEEDS)}")

    def mark(test: _Test) -> _Test:
        test.__dict__["_needs"] = what
        return test

    return mark


class Front:
    """What holds for everything that answers HTTP for endpoints: the adapters, and the proxy.

    Attributes:
        lacks: What the front cannot do, of `NEEDS`, each with the reason; tests that need it are not collected.
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
        """Return what the tests that are collected may not need."""
        return frozenset(cls.lacks)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take away the tests that need what the front lacks."""
        super().__init_subclass__(**kwargs)
        for unknown in cls.lacks.keys() - NEEDS.keys():
            raise ValueError(f"{cls.__name__}.lacks: {unknown!r} is nothing a test may need; known: {', '.join(NEEDS)}")
        lacking = cls.what_is_lacking()
        for name in dir(cls):
            if getattr(getattr(cls, name), "_needs", None) in lacking:
                setattr(cls, name, None)
