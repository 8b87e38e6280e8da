"""The kept state beside the checkpoint: a change is in both, or in none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.kept_state import KeptState
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.runtimes.local import MemoryStore
from serve_bridge.specs import BackendSpec
from serve_bridge.wire.opaque import Opaque


class BrokenStore(MemoryStore):
    """A store that refuses values while `broken` is set."""

    broken = False

    async def put(self, key: str, value: bytes) -> None:
        """Store *value*, unless the store is broken."""
        if self.broken:
            raise ConnectionError("the control plane has gone")
        await super().put(key, value)


class NoProcesses:
    """The replicas and proxies of an instance that has none."""

    port = 0
    snapshots: tuple[()] = ()

    def ready(self, revisions: object) -> dict[str, tuple[()]]:
        """Return the addresses of no replicas."""
        return {}


def backend(name: str, code: bytes = b"code") -> BackendSpec:
    """Return a backend."""
    return BackendSpec(name, code, False, BackendConfig(), Opaque({}))


def state_in(directory: Path, store: MemoryStore | None = None) -> tuple[CommittedState, KeptState]:
    """Return the state of an instance that keeps it in *directory*."""
    kept, processes = KeptState("main", str(directory)), NoProcesses()
    checkpoints = Checkpoints(store or MemoryStore(), "main")
    return CommittedState("g", checkpoints, kept, processes, processes), kept  # type: ignore[arg-type]


def restored(directory: Path) -> WantedState | None:
    """Return what the next instance finds in *directory*."""

    async def main() -> WantedState | None:
        kept = KeptState("main", str(directory))
        try:
            return await kept.open()
        finally:
            kept.close()

    return asyncio.run(main())


def adding(name: str) -> Callable[[WantedState], Any]:
    """Return a change that adds a backend."""
    return lambda wanted: wanted.backends.update({name: backend(name)})


def test_a_change_and_a_note_are_kept(tmp_path: Path) -> None:
    """As soon as they return."""

    async def main() -> None:
        state, kept = state_in(tmp_path / "main")
        await state.begin()
        await state.change(adding("a"))
        await state.note(adding("b"))
        kept.close()

    asyncio.run(main())
    assert restored(tmp_path / "main") == WantedState({"a": backend("a"), "b": backend("b")})


def test_a_refused_change_writes_nothing(tmp_path: Path) -> None:
    """The files are the same bytes."""

    def refuse(wanted: WantedState) -> None:
        wanted.backends.clear()
        raise ValueError("no")

    async def main() -> bytes:
        state, kept = state_in(tmp_path / "main")
        await state.begin()
        await state.change(adding("a"))
        before = (tmp_path / "main" / "state.json").read_bytes()
        with pytest.raises(ValueError, match="no"):
            await state.change(refuse)
        kept.close()
        return before

    assert asyncio.run(main()) == (tmp_path / "main" / "state.json").read_bytes()


def test_a_change_that_cannot_be_checkpointed_is_not_kept(tmp_path: Path) -> None:
    """A restart must not bring what its caller was told to have failed."""

    async def main() -> WantedState:
        store = BrokenStore()
        state, kept = state_in(tmp_path / "main", store)
        await state.begin()
        await state.change(adding("a"))
        store.broken = True
        with pytest.raises(ConnectionError):
            await state.change(adding("b"))
        kept.close()
        return state.wanted

    assert asyncio.run(main()) == restored(tmp_path / "main") == WantedState({"a": backend("a")})


def test_starts_and_ends_of_processes_write_nothing(tmp_path: Path) -> None:
    """They are in the checkpoint only."""

    async def main() -> int:
        state, kept = state_in(tmp_path / "main")
        await state.begin()
        await state.change(adding("a"))
        before = (tmp_path / "main" / "state.json").stat().st_mtime_ns
        await state.save()
        await state.publish()
        kept.close()
        return before

    assert asyncio.run(main()) == (tmp_path / "main" / "state.json").stat().st_mtime_ns


def test_a_cancelled_change_is_not_kept(tmp_path: Path) -> None:
    """A write that has begun ends before the next one."""

    async def main() -> None:
        state, kept = state_in(tmp_path / "main")
        await state.begin()
        changing = asyncio.create_task(state.change(adding("a")))
        await asyncio.sleep(0)
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
        assert state.wanted == WantedState()
        await state.change(adding("b"))
        kept.close()

    asyncio.run(main())
    assert restored(tmp_path / "main") == WantedState({"b": backend("b")})


def test_a_recovered_controller_keeps_what_runs(tmp_path: Path) -> None:
    """The files may be older than the checkpoint, or missing on a new node."""

    async def main() -> None:
        kept = KeptState("main", str(tmp_path / "main"))
        await kept.reopen(WantedState({"a": backend("a")}))
        kept.close()

    asyncio.run(main())
    assert restored(tmp_path / "main") == WantedState({"a": backend("a")})


def test_a_recovered_controller_without_its_directory_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its instance serves; a change is refused until the directory can be used."""

    async def main() -> None:
        (tmp_path / "file").touch()
        kept = KeptState("main", str(tmp_path / "file" / "main"))
        wanted = WantedState({"a": backend("a")})
        await kept.reopen(wanted)
        with pytest.raises(ValueError, match="cannot be used: Not a directory"):
            await kept.write(wanted)
        (tmp_path / "file").unlink()
        await kept.write(wanted)
        kept.close()

    asyncio.run(main())
    assert "the state is not kept, and the next change tries again" in caplog.text
    assert restored(tmp_path / "file" / "main") == WantedState({"a": backend("a")})
