"""The files of the state of one instance: state.json, its predecessor, and the code beside them.

Rule 1: each file is written whole under another name, flushed to the disk, and renamed. A crash leaves the old file.
Rule 2: code is written before the state that names it, and removed after the last state that named it.
Rule 3: one process at a time keeps a state. It holds a lock on the directory.
Rule 4: the methods block. An event loop leaves them to a thread.

::

    DIR/NAME/state.json         the state
    DIR/NAME/previous.json      the state before the last write
    DIR/NAME/code/SHA256.bin    code and pickled values of both
    DIR/NAME/before-fresh/      the same files as they were before the last start with `fresh`
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from serve_bridge.errors import ConfigError
from serve_bridge.instance.private_file import DRAFT, flush_directory, kept_directory, write_private
from serve_bridge.state.document import UnreadableState, decode, encode
from serve_bridge.state.records import StateRecord, digest_of

LOCK_S: Final = 2.0
"""Upper limit for the wait until an ending process has released the state, in seconds."""
STATE: Final = "state.json"
PREVIOUS: Final = "previous.json"
CODE: Final = "code"
LOCK: Final = "lock"
BEFORE_FRESH: Final = "before-fresh"
_WAY_OUT: Final = "begin empty with fresh=True (--fresh), or give another directory with state= (--state)"

_logger = logging.getLogger("serve_bridge.controller")


class StateFiles:
    """The state of one instance in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: int | None = None
        self._is_new = False
        self._current: StateRecord | None = None

    # reading

    def read(self) -> tuple[StateRecord, Callable[[str], bytes]] | None:
        """Return the state, and a function for the bytes of its code; None if there is no state.

        Raises:
            ConfigError: The state is damaged, of a later version, or of another user. The message has the path and the
                remedy.
        """
        path = self._directory / STATE
        try:
            data = _read(path)
            if data is None:
                if (self._directory / PREVIOUS).exists():
                    raise UnreadableState("it is missing")
                return None
            record, _ = decode(data)
            for digest in record.blobs:
                self.blob(digest)
            record.restored(self.blob)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"the state {path} cannot be used: {error}; {self._remedy()}") from None
        except OSError as error:
            raise ConfigError(f"the state {path} cannot be read: {error.strerror or error}; {_WAY_OUT}") from None
        self._current = record
        return record, self.blob

    def blob(self, digest: str) -> bytes:
        """Return code or a pickle by its SHA-256.

        Raises:
            UnreadableState: It is missing or damaged.
        """
        data = _read(self._code(digest))
        if data is None or digest_of(data) != digest:
            what = "missing" if data is None else "damaged"
            raise UnreadableState(f"its code {self._code(digest)} is {what}")
        return data

    def _remedy(self) -> str:
        previous = self._directory / PREVIOUS
        with contextlib.suppress(ConfigError, OSError):
            data = _read(previous)
            if data is not None:
                decode(data)
                return f"go back to the state before with `mv {previous} {self._directory / STATE}`, or {_WAY_OUT}"
        return _WAY_OUT

    def is_state(self) -> bool:
        """Return whether the directory holds the state of an instance, or the one before."""
        for name in (STATE, PREVIOUS):
            with contextlib.suppress(ConfigError, OSError):
                data = _read(self._directory / name)
                if data is not None:
                    decode(data)
                    return True
        return False

    # the lock

    def lock(self, wait_s: float = LOCK_S) -> None:
        """Make the directory if necessary, and take the lock, for which this waits at most *wait_s* seconds.

        Raises:
            ConfigError: The directory cannot be used, or another process keeps a state there.
        """
        if self._lock is not None:
            return
        path = self._directory / LOCK
        deadline = time.monotonic() + wait_s
        self._is_new = not os.path.lexists(self._directory)
        try:
            kept_directory(self._directory)
            while self._lock is None:
                # Not closed by a fork, but by an exec: a program that user code runs must not hold the lock.
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    self._lock = self._locked(descriptor, path, deadline)
                finally:
                    if self._lock is None:
                        os.close(descriptor)
            os.truncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"the state directory {self._directory} cannot be used: {error.strerror or error}; give another "
                "directory with state= (--state), or keep no state with state=False (--no-state)"
            ) from None

    def _locked(self, descriptor: int, path: Path, deadline: float) -> int | None:
        """Return *descriptor* once it has the lock; None if *path* is another file by now."""
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"the state directory {self._directory} is in use by a running instance, in process "
                        f"{_written_in(descriptor)}; join that instance with connect(), shut it down, or give another "
                        "directory or name (--state, --name)"
                    ) from None
                time.sleep(0.05)
        try:
            return descriptor if path.lstat().st_ino == os.fstat(descriptor).st_ino else None
        except FileNotFoundError:
            return None

    def holder(self) -> str | None:
        """Return the id of the process that holds the lock, or "unknown"; None: no process holds it."""
        try:
            descriptor = os.open(self._directory / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _written_in(descriptor)
        else:
            return None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Release the lock. If no state was written, remove the lock file and the directory that `lock` has made."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if not any(os.path.lexists(self._directory / name) for name in (STATE, PREVIOUS)):
            with contextlib.suppress(OSError):  # other files may be in the directory
                (self._directory / LOCK).unlink(missing_ok=True)
                if self._is_new:
                    self._directory.rmdir()
        os.close(lock)

    # writing

    def write(self, record: StateRecord, blobs: Mapping[str, bytes], *, keep_previous: bool = True) -> None:
        """Replace the state. The former one becomes the previous one with *keep_previous*.

        Raises:
            OSError: The files cannot be written; the state is as before. The message has the path and the remedy.
        """
        if record == self._current:
            return
        try:
            kept_directory(self._directory / CODE)
            for digest, data in blobs.items():
                if not self._code(digest).exists():
                    write_private(self._code(digest), data)
            if keep_previous and (before := _read(self._directory / STATE)) is not None:
                write_private(self._directory / PREVIOUS, before)
            write_private(self._directory / STATE, encode(record, sealed=True))
        except OSError as error:
            raise OSError(
                f"the state in {self._directory} cannot be written: {error.strerror or error}; nothing was changed; "
                "make room or correct the directory there, and try again"
            ) from None
        if self._current is not None:
            self._prune(record.blobs | self._current.blobs)
        self._current = record

    def set_aside(self) -> None:
        """Move an existing state to `before-fresh`, in place of an older one there.

        Raises:
            OSError: The files cannot be moved.
        """
        found = [self._directory / name for name in (PREVIOUS, STATE, CODE)]
        if not any(path.exists() for path in found):
            return
        aside = self._directory / BEFORE_FRESH
        shutil.rmtree(aside, ignore_errors=True)
        kept_directory(aside)
        for path in found:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, aside / path.name)
        flush_directory(aside)
        flush_directory(self._directory)
        self._current = None

    def forget(self) -> None:
        """Remove all files of the state, and release the lock."""
        if self._lock is None:
            return
        for name in (STATE, PREVIOUS, LOCK):
            (self._directory / name).unlink(missing_ok=True)
        self._remove_drafts()
        for name in (CODE, BEFORE_FRESH):
            shutil.rmtree(self._directory / name, ignore_errors=True)
        flush_directory(self._directory)  # otherwise the state could be back after a loss of power
        self.close()
        with contextlib.suppress(OSError):  # keys of the instance may be there, which outlive its state
            self._directory.rmdir()

    def _prune(self, used: frozenset[str]) -> None:
        try:
            for path in (self._directory / CODE).iterdir():
                if path.suffix != ".bin" or path.stem not in used:
                    path.unlink()
            self._remove_drafts()
        except OSError as error:  # the code is not needed, but it does no harm
            _logger.warning("old code of the state in %s stays: %s", self._directory, error)

    def _remove_drafts(self) -> None:
        for name in (STATE, PREVIOUS):
            for path in self._directory.glob(f".{name}.*{DRAFT}"):  # of a process that was killed while it wrote
                path.unlink(missing_ok=True)

    def _code(self, digest: str) -> Path:
        if len(digest) != 64 or not digest.isalnum():
            raise UnreadableState("it names code by something that is not a SHA-256")
        return self._directory / CODE / f"{digest}.bin"


def _written_in(lock: int) -> str:
    return os.pread(lock, 20, 0).decode("ascii", "replace") or "unknown"


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise UnreadableState(f"{path} belongs to another user")
        return file.read()
