"""A disk that is full, a process that ends while it writes, and notes of what was flushed and renamed."""

from __future__ import annotations

import itertools
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Step(NamedTuple):
    """One call by which a file gets to the disk: "flush" or "name".

    Attributes:
        what: "flush" or "name".
        name: The last part of the path that is flushed, or that a draft is renamed to.
        size: The size of the flushed file in bytes; 0 for a directory and a rename.
    """

    what: str
    name: str
    size: int


def noted_steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Return a list to which each flush and each rename of this process is added, in their order."""
    steps: list[Step] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append(Step("flush", path.name, path.stat().st_size if path.is_file() else 0))

    def noting_replace(draft: Path, path: Path) -> None:
        replace(draft, path)
        steps.append(Step("name", path.name, 0))

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    return steps


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, in bytes, which fails as a full disk does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def ended_at(step: int, work: Callable[[], object]) -> bool:
    """Run *work* in a forked process that ends before its system call number *step*; return whether it got there."""
    child = os.fork()
    if child == 0:
        calls = itertools.count()

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def counting(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == step:
                    os._exit(9)
                return call(*args, **kwargs)

            return counting

        for name in ("open", "fsync", "replace", "unlink", "mkdir", "rename"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
