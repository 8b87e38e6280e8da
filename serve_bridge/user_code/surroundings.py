"""The surroundings of user code in a replica: the set-up of a framework, and a context around each call.

Rule 1: a replica opens the surroundings before it imports or constructs user code. It enters them around each call.
Rule 2: code without surroundings has no cost: the wrapper is added when a method is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Protocol

import msgspec

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown
from serve_bridge.user_code.import_path import check_import_path, resolve
from serve_bridge.user_code.search_path import search_path_of

__all__ = [
    "Surroundings",
    "SurroundingsSpec",
    "open_surroundings",
]

_PARTS: Final = ("setup", "around", "around_async")


class Surroundings(Protocol):
    """The surroundings of user code. A replica has one such object for its whole life.

    A declaration names a factory for it: `@serve.backend("digits", surroundings="shop.serving:open")` calls
    `shop.serving.open()` in each replica. With the local runtime, replicas are threads of one process. So `setup` may
    run several times in a process, even at the same time.

    An exception of `setup` fails the start of the replica. An exception of the other methods fails the call.
    """

    def setup(self) -> None:
        """Set up the framework; called once, before user code is imported and constructed."""

    def around(self) -> AbstractContextManager[object]:
        """Return the context manager for one call of `def` code. It is entered in the thread of the call.

        A call is the constructor, a request, a batch, `reconfigure` or `check_health`. A generator is one call from its
        first item until it is closed. The body of a streaming response is a call of its own, after the call which
        returned it. All steps of a call see the same context variables. With `threads` above 1, the steps of a
        generator may run in different threads, one after another.
        """

    def around_async(self) -> AbstractAsyncContextManager[object]:
        """Return the context manager for one call of `async def` code. It is entered in the task of the call.

        If the calls of a class are `async def`, its constructor runs on the loop, and within this context, too.
        """


class SurroundingsSpec(msgspec.Struct, frozen=True):
    """The surroundings for a replica to open.

    Attributes:
        path: Import path of their factory, "package.module:factory".
        arguments: Keyword arguments of the factory: text, bytes, numbers, bool, None, and lists and dicts of these.
        search_path: Directories in which imports look first. Those of the factory's module are added by `of`.

    Raises:
        ConfigError: The path is malformed, or an argument has another type.
    """

    path: str
    arguments: Mapping[str, Any] = {}
    search_path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise TypeError(f"surroundings: the path must be a str, got {shown(self.path)}")
        try:
            check_import_path(self.path)
            msgspec.msgpack.encode(self)
        except (ConfigError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"surroundings: {error}") from None

    @classmethod
    def of(cls, value: object) -> SurroundingsSpec | None:
        """Return *value*, an import path or a spec, as a spec with the directories for its imports; None for None.

        Raises:
            TypeError: *value* has another type.
            ConfigError: The path is malformed.
        """
        if value is None:
            return None
        spec = cls(value) if isinstance(value, str) else value
        if not isinstance(spec, SurroundingsSpec):
            raise TypeError(f"surroundings must be an import path 'package.module:factory', got {shown(value)}")
        own = search_path_of(spec.path.partition(":")[0])
        return msgspec.structs.replace(spec, search_path=tuple(dict.fromkeys([*spec.search_path, *own])))


def open_surroundings(spec: SurroundingsSpec) -> Surroundings:
    """Make the surroundings of *spec*, and set them up.

    Raises:
        TypeError: The factory returned an object without the methods of surroundings.
        BaseException: The factory or `setup` raised it.
    """
    made = resolve(spec.path)(**spec.arguments)
    missing = [part for part in _PARTS if not callable(getattr(made, part, None))]
    if missing:
        raise TypeError(f"surroundings {spec.path!r} made {shown(made)}, which has no method {', '.join(missing)}")
    surroundings: Surroundings = made
    surroundings.setup()
    return surroundings
