"""The checkpoint: what a restarted controller must know, in a store that outlives it.

Rule 1: one key holds all of it but the code, which is large, changes rarely, and has a key a backend and revision.
Rule 2: a checkpoint of another format is refused, never guessed at.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

from serve_bridge.controller.runtime import Store
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.errors import ConfigError, SerializationError
from serve_bridge.specs import BackendSpec
from serve_bridge.wire import payload
from serve_bridge.wire.address import SocketAddress

FORMAT: Final = 3
_KEY: Final = "checkpoint"


@dataclass(frozen=True)
class ReplicaSnapshot:
    """What a restarted controller must know of a replica; one that was still starting has no address."""

    id: str
    backend: str
    revision: int
    address: SocketAddress | None


@dataclass(frozen=True)
class ProxySnapshot:
    """What a restarted controller must know of a proxy."""

    id: str
    node: str
    url: str
    address: SocketAddress


@dataclass(frozen=True)
class Checkpoint:
    """What was wanted and what ran when it was taken.

    Attributes:
        wanted: Backends and endpoints.
        version: The newest routing table may be a few versions further.
        http_port: Of every proxy; 0: none has started.
        tcp_port: Of the controller; 0: none.
        proxies, replicas: What ran.
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
        """Replace the checkpoint; `save_code` has saved the code of its backends."""
        backends = {name: replace(backend, code=b"") for name, backend in checkpoint.wanted.backends.items()}
        stripped = replace(checkpoint, wanted=replace(checkpoint.wanted, backends=backends))
        await self._put(_KEY, payload.join(payload.pack(stripped)), "the options of all backends")

    async def load(self) -> Checkpoint | None:
        """Return the checkpoint, with the code of its backends; None if there is none.

        Raises:
            ConfigError: It is of another version of serve_bridge.
        """
        data = await self._store.get(_KEY)
        if data is None:
            return None
        try:
            checkpoint = payload.unpack(data)
        except SerializationError:  # it names a class that this version does not have
            checkpoint = None
        if not isinstance(checkpoint, Checkpoint) or checkpoint.format != FORMAT:
            raise ConfigError(
                f"instance {self._instance!r} left a checkpoint of another version of serve_bridge; "
                "shut it down with the version that started it"
            )
        backends = await asyncio.gather(*(self._with_code(b) for b in checkpoint.wanted.backends.values()))
        wanted = replace(checkpoint.wanted, backends={backend.name: backend for backend in backends})
        return replace(checkpoint, wanted=wanted)

    async def save_code(self, backend: BackendSpec) -> None:
        """Keep the code of this revision of *backend*.

        Raises:
            ConfigError: It is too large for the store.
        """
        what = f"backend {backend.name!r}: its code and the arguments of its constructor"
        await self._put(_code_key(backend), backend.code, what)

    async def forget_code(self, backend: BackendSpec) -> None:
        """Forget the code of this revision of *backend*."""
        await self._store.delete(_code_key(backend))

    async def forget(self) -> None:
        """Forget everything."""
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


def _code_key(backend: BackendSpec) -> str:
    return f"code/{backend.name}/{backend.revision}"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
