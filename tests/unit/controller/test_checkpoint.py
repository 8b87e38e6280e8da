"""The checkpoint: what a restarted controller finds again, and what it refuses."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.checkpoint import FORMAT, Checkpoint, Checkpoints, ProxySnapshot, ReplicaSnapshot
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.errors import ConfigError
from serve_bridge.runtimes.local import MemoryStore
from serve_bridge.specs import BackendSpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.opaque import Opaque
from serve_bridge.wire.payload import pack
from serve_bridge.wire.segments import join

CODE = b"c" * 100_000


class FutureCheckpoint:
    """A class that only a later version has."""


@pytest.fixture
def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore()


@pytest.fixture
def checkpoints(store: MemoryStore) -> Checkpoints:
    """The checkpoint of an instance that has none yet."""
    return Checkpoints(store, "main")


def backend(revision: int = 1) -> BackendSpec:
    """Return a backend."""
    return BackendSpec(
        "b", CODE + bytes([revision]), True, BackendConfig(num_replicas=2), Opaque({"num_cpus": 1}), revision
    )


def taken(*backends: BackendSpec) -> Checkpoint:
    """Return a checkpoint of an instance that runs."""
    wanted = WantedState({backend.name: backend for backend in backends})
    for name in wanted.backends:
        wanted.create_endpoint("e", name, "/e", ("GET",))
    address = SocketAddress("r1", "/r1.sock", ("10.0.0.1", 7))
    return Checkpoint(
        wanted=wanted,
        version=7,
        http_port=8000,
        tcp_port=9000,
        proxies=[ProxySnapshot("p1", "n1", "http://127.0.0.1:8000", address)],
        replicas=[ReplicaSnapshot("r1", "b", 1, address), ReplicaSnapshot("r2", "b", 1, None)],
    )


def test_a_new_instance_has_no_checkpoint(checkpoints: Checkpoints) -> None:
    """It begins afresh."""
    assert asyncio.run(checkpoints.load()) is None


def test_what_was_saved_is_loaded(checkpoints: Checkpoints) -> None:
    """With the code of the revision that is wanted."""

    async def main() -> Checkpoint | None:
        for revision in (1, 2):
            await checkpoints.save_code(backend(revision))
        await checkpoints.save(taken(backend(2)))
        return await checkpoints.load()

    found, expected = asyncio.run(main()), taken(backend(2))
    assert found is not None
    assert found.wanted.backends["b"].actor_options.open() == {"num_cpus": 1}
    assert found.wanted.backends["b"].code == expected.wanted.backends["b"].code
    assert found.wanted.endpoints == expected.wanted.endpoints
    assert replace(found, wanted=WantedState()) == replace(expected, wanted=WantedState())


def test_the_checkpoint_itself_holds_no_code(checkpoints: Checkpoints, store: MemoryStore) -> None:
    """It is written at every change."""

    async def main() -> bytes | None:
        await checkpoints.save_code(backend())
        await checkpoints.save(taken(backend()))
        return await store.get("checkpoint")

    saved = asyncio.run(main())
    assert saved is not None
    assert len(saved) < len(CODE)


def test_the_code_of_an_old_revision_can_be_forgotten(checkpoints: Checkpoints, store: MemoryStore) -> None:
    """That of the others stays."""

    async def main() -> tuple[bytes | None, bytes | None]:
        for revision in (1, 2):
            await checkpoints.save_code(backend(revision))
        await checkpoints.forget_code(backend(1))
        return await store.get("code/b/1"), await store.get("code/b/2")

    assert asyncio.run(main()) == (None, backend(2).code)


def test_everything_can_be_forgotten(checkpoints: Checkpoints, store: MemoryStore) -> None:
    """An instance that was shut down leaves no key."""

    async def main() -> list[bytes | None]:
        await checkpoints.save_code(backend())
        await checkpoints.save(taken(backend()))
        await checkpoints.forget()
        return [await store.get("checkpoint"), await store.get("code/b/1")]

    assert asyncio.run(main()) == [None, None]


@pytest.mark.parametrize(
    "left",
    [
        lambda: join(pack(replace(taken(), format=99))),
        lambda: join(pack({"wanted": {}})),
        lambda: join(pack(FutureCheckpoint())).replace(b"FutureCheckpoint", b"FutureCheckpoinT"),
    ],
    ids=["another format", "something else", "a class that this version does not have"],
)
def test_a_checkpoint_of_another_version_is_refused(
    checkpoints: Checkpoints, store: MemoryStore, left: Callable[[], bytes]
) -> None:
    """With what to do about it."""

    async def main() -> None:
        await store.put("checkpoint", left())
        await checkpoints.load()

    with pytest.raises(ConfigError, match=r"'main'.*install the version that wrote it again"):
        asyncio.run(main())


def test_code_above_the_limit_of_the_store_is_an_error(store: MemoryStore, checkpoints: Checkpoints) -> None:
    """It names the backend, the size, the limit, and the way out; nothing is kept."""
    store.most_bytes = 512 << 20
    large = replace(backend(), code=bytes(520 << 20))
    with pytest.raises(ConfigError, match=r"'b'.* 520 MiB .* 512 MiB .* path"):
        asyncio.run(checkpoints.save_code(large))
    assert asyncio.run(store.get("code/b/1")) is None


def test_a_later_format_is_refused_by_its_number(store: MemoryStore, checkpoints: Checkpoints) -> None:
    """Its pickle is not read: it may name classes that this version does not have."""

    async def main() -> None:
        await store.put("checkpoint", b"no pickle" + struct.pack("<8sI", b"sbformat", FORMAT + 1))
        await checkpoints.load()

    with pytest.raises(ConfigError, match=rf"of format {FORMAT + 1}, .* format {FORMAT}; install the version"):
        asyncio.run(main())
