"""The checkpoint: the state for a restarted controller, in a store that outlives it.

Rule 1: one key holds everything except code. Code is large and changes rarely, so each revision of a backend has its
    own key for it.
Rule 2: a checkpoint of another format is refused. The number of its format follows the pickle, so even a version
    that lacks its classes can name the number. Earlier versions do not look behind the pickle.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field, replace
from typing import Final

from serve_bridge.controller.runtime import Store
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.errors import ConfigError, SerializationError
from serve_bridge.specs import BackendSpec
from serve_bridge.wire import payload
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.segments import join

FORMAT: Final = 3
_KEY: Final = "checkpoint"
_END: Final = struct.Struct("<8sI")
_MAGIC: Final = b"sbformat"


@dataclass(frozen=True)
class ReplicaSnapshot:
    """A replica in a checkpoint.

    Attributes:
        id, backend, revision: Its id, its backend, and the revision of its code.
        address: Where it listens; None while it starts.
        is_retired: Whether it drains, or soon will. The default is for checkpoints of older versions, which lack it.
    """

    id: str
    backend: str
    revision: int
    address: SocketAddress | None
    is_retired: bool = False


@dataclass(frozen=True)
class ProxySnapshot:
    """A proxy in a checkpoint; *number* is its number on its node."""

    id: str
    node: str
    url: str
    address: SocketAddress
    number: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The state of an instance at one moment.

    Attributes:
        wanted: The wanted state, with the backends and endpoints.
        version: Version of the routing table. Newer tables may have been published since.
        http_port: Port of every proxy; 0: no proxy has started.
        tcp_port: TCP port of the controller; 0: it has none.
        proxies, replicas: The running processes.
        format: Format of the checkpoint.
    """

    wanted: WantedState
    version: int
    http_port: int
    tcp_port: int
    proxies: list[ProxySnapshot]
    replicas: list[ReplicaSnapshot]
    format: int = field(default=FORMAT)


class Checkpoints:
    """The checkpoint of one instance, in its runtime's store."""

    def __init__(self, store: Store, instance: str) -> None:
        self._store = store
        self._instance = instance

    async def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint. The code of its backends is not part of it; see `save_code`."""
        backends = {name: replace(backend, code=b"") for name, backend in checkpoint.wanted.backends.items()}
        stripped = replace(checkpoint, wanted=replace(checkpoint.wanted, backends=backends))
        data = join(payload.pack(stripped)) + _END.pack(_MAGIC, FORMAT)
        await self._put(_KEY, data, "the options of all backends")

    async def check_store(self) -> None:
        """Check that the store answers.

        Raises:
            ControlPlaneLost: It does not.
        """
        await self._store.get(_KEY)

    async def load(self) -> Checkpoint | None:
        """Return the checkpoint, with the code of its backends; None if the store has none.

        Raises:
            ConfigError: The checkpoint is of another version of serve_bridge.
        """
        checkpoint = await self.read()
        if checkpoint is None:
            return None
        backends = await asyncio.gather(*(self._with_code(b) for b in checkpoint.wanted.backends.values()))
        wanted = replace(checkpoint.wanted, backends={backend.name: backend for backend in backends})
        return replace(checkpoint, wanted=wanted)

    async def read(self) -> Checkpoint | None:
        """Return the checkpoint without the code of its backends; None if the store has none.

        Raises:
            ConfigError: As `load`.
        """
        data = await self._store.get(_KEY)
        if data is None:
            return None
        found = _format_of(data)
        try:
            checkpoint = payload.unpack(data) if found == FORMAT else None
        except SerializationError:  # it names a class of another version
            checkpoint = None
        if not isinstance(checkpoint, Checkpoint) or checkpoint.format != FORMAT:
            number = getattr(checkpoint, "format", found)
            of = f"format {number}" if number != FORMAT else "another version"
            raise ConfigError(
                f"instance {self._instance!r} left a checkpoint of {of}, and this version of serve_bridge reads its "
                f"own format {FORMAT}; install the version that wrote it again, or shut the instance down with that one"
            )
        return checkpoint

    async def save_code(self, backend: BackendSpec) -> None:
        """Store the code of this revision of *backend*.

        Raises:
            ConfigError: The code is too large for the store.
        """
        what = f"backend {backend.name!r}: its code and the arguments of its constructor"
        await self._put(_code_key(backend), backend.code, what)

    async def forget_code(self, backend: BackendSpec) -> None:
        """Delete the code of this revision of *backend*."""
        await self._store.delete(_code_key(backend))

    async def forget(self) -> None:
        """Delete the checkpoint and all code."""
        await self._store.delete("")

    async def _put(self, key: str, value: bytes, what: str) -> None:
        most = self._store.most_bytes
        if len(value) > most:
            raise ConfigError(
                f"{what} have {_mib(len(value))} when they are pickled, and a Ray cluster keeps {_mib(most)} at most; "
                "pass where the data is, such as a path, and let the constructor load it"
            )
        await self._store.put(key, value)

    async def _with_code(self, backend: BackendSpec) -> BackendSpec:
        return replace(backend, code=await self._store.get(_code_key(backend)) or b"")


def _format_of(data: bytes) -> int:
    """Return the number of the format of *data*. Format 3 began without a number behind the pickle."""
    magic, number = _END.unpack(data[-_END.size :]) if len(data) >= _END.size else (b"", 0)
    return int(number) if magic == _MAGIC else 3


def _code_key(backend: BackendSpec) -> str:
    return f"code/{backend.name}/{backend.revision}"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
