"""The shapes of backends, for the types of handles."""

from __future__ import annotations

from types import CodeType
from typing import ParamSpec, Protocol, TypeVar

Taken = ParamSpec("Taken")
Returned = TypeVar("Returned", covariant=True)


class BackendClass(Protocol[Taken, Returned]):
    """An instance of a backend's class, by its `__call__`."""

    def __call__(self, *args: Taken.args, **kwargs: Taken.kwargs) -> Returned:
        """Answer one request."""


class BackendFunction(Protocol[Returned]):
    """A function without parameters. A class can be called without arguments too, but has no `__code__`."""

    @property
    def __code__(self) -> CodeType:
        """The code of the function."""

    def __call__(self) -> Returned:
        """Answer one request."""
