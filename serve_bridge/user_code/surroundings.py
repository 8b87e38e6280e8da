"""What user code of a replica runs in: a framework made ready, an application's context around each call.

Rule 1: a replica opens them before it imports or constructs user code, and enters them around every call of it.
Rule 2: code without surroundings pays nothing: where a method is built it is decided whether anything is around it.
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
    """What user code runs in; a replica has one, which lives as long as the replica.

    It is what a factory returns that a declaration names: `@serve.backend("digits", surroundings="shop.serving:open")`
    calls `shop.serving.open()` in every replica. With the local runtime replicas are threads of one process, so
    `setup` may run several times in a process, and at the same time.

    Anything that raises fails what it is around: `setup` the start of the replica, the others a call.
    """

    def setup(self) -> None:
        """Make ready what user code needs to be imported and constructed; called once, before both."""

    def around(self) -> AbstractContextManager[object]:
        """Return what is to be entered around one call of `def` code, in the thread that runs it.

        A call is the constructor, a request, a batch, `reconfigure` or `check_health`. A generator counts as one call
        from its first item until it is closed; so does the body of a streaming response, after the call that returned
        it. All of it sees the same context variables; with `threads` above 1 the steps of a generator may run in
        different threads, one after another.
        """

    def around_async(self) -> AbstractAsyncContextManager[object]:
        """Return what is to be entered around one call of `async def` code, on its loop, in the task that runs it.

        The constructor of a class whose calls are `async def` runs on the loop, so it runs within this too.
        """


class SurroundingsSpec(msgspec.Struct, frozen=True):
    """Which surroundings a replica opens.

    Attributes:
        path: Import path of the factory that returns them, "package.module:factory".
        arguments: Its keyword arguments: text, bytes, numbers, bool, None, and lists and dicts of these.
        search_path: Directories in which imports look first; those of *path*'s module come by themselves.

    Raises:
        ConfigError: The path is malformed, or an argument is something else.
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
        """Return *value*, an import path, a spec or None, as a spec that names the directories it needs.

        Raises:
            TypeError: It is neither.
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
    """Make the surroundings that *spec* names, and set them up.

    Raises:
        TypeError: What the factory returns are none.
        BaseException: What the factory or `setup` raises.
    """
    made = resolve(spec.path)(**spec.arguments)
    missing = [part for part in _PARTS if not callable(getattr(made, part, None))]
    if missing:
        raise TypeError(f"surroundings {spec.path!r} made {shown(made)}, which has no method {', '.join(missing)}")
    surroundings: Surroundings = made
    surroundings.setup()
    return surroundings
