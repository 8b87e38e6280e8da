"""The files with an instance's secrets and with the keys of its roles. They outlive the instance.

Rule 1: a file is 0600 in a directory of its user, and a file with more permissions is refused.
Rule 2: the secrets are in one file, the newest first. Beside it are the key files of the roles, for other hosts:
    NAME.forward.key, NAME.call.key and NAME.manage.key. They have the newest key only.
Rule 3: a line is `serve-bridge-key-1 ROLE ID HEX`. The role "secret" stands for all roles.
Rule 4: a start and a change of the keys have the directory for themselves until they end. Otherwise a failed start
    could remove the keys of another one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serve_bridge.config.checks import check_no_key, key_file_path
from serve_bridge.errors import ConfigError
from serve_bridge.instance.private_file import UnusableFile, kept_directory, read_private, write_private
from serve_bridge.instance.state_directory import STATE_VARIABLE, state_directory
from serve_bridge.printable import CONTROL
from serve_bridge.wire.keys import OF_FILES, Key, Role

if TYPE_CHECKING:
    from serve_bridge.config.network_options import NetworkOptions

KEY_FILE_VARIABLE: Final = "SERVE_BRIDGE_KEY_FILE"
FORMAT: Final = "serve-bridge-key-1"
SECRET: Final = "secret"
"""The role of a line with a secret, and the name of the file with the secrets in the state directory."""
USE_S: Final = 90.0
"""Upper limit for the wait until another start, or another change of the same keys, has ended, in seconds."""
LOOK_S: Final = 0.05
"""Seconds between two tries to lock a directory."""
_COPY_AGAIN: Final = "copy it again from the host on which the instance was started"
_RESTORE: Final = "restore it from a backup, or remove it to begin with new keys"


def secret_file(name: str, key_file: str | None, state: str | None = None) -> Path:
    """Return the file with the secrets of instance *name*: *key_file*, or the one in its state directory *state*.

    Raises:
        ConfigError: *key_file* is a key itself, or the path of a role's key file, which would overwrite the secrets.
    """
    if key_file is not None:
        path = Path(key_file_path("key_file", key_file))
        if path in [role_file(path.parent, name, role) for role in OF_FILES]:
            raise ConfigError(
                f"key_file={str(path)!r} is the place of the key file of a role, and the secret needs another one, "
                f"such as {path.with_name(SECRET)}; web hosts name the key file of a role in {KEY_FILE_VARIABLE}"
            )
        return path
    return (state_directory(name) if state is None else Path(state)) / SECRET


def role_file(directory: Path, name: str, role: Role) -> Path:
    """Return the key file of *role* in *directory*."""
    return directory / f"{name}.{role.name.lower()}.key"


@contextmanager
def key_of_start(
    name: str, network: NetworkOptions, *, kept: bool, state: str | None = None
) -> Iterator[tuple[Key, bool]]:
    """Return the key of a new start of instance *name*, and whether it is kept for the next start.

    It is kept if the caller asks for it, and if the instance listens for other hosts, or has a key file or a *state*
    directory of its own. If the block raises, what this call has made is removed.

    Raises:
        ConfigError: The file does not hold secrets, others can read it, or it cannot be written.
    """
    if not kept and network.listen is None and network.key_file is None and state is None:
        yield Key(), False
        return
    path = secret_file(name, network.key_file, state)
    with alone_with_keys(path.parent, make=network.key_file is None) as made:
        try:
            key, files = kept_key(name, network.key_file, state)
            made += files
            yield key, True
        except BaseException:
            _remove(made)
            raise


@contextmanager
def alone_with_keys(directory: Path, *, make: bool = False, wait_s: float = USE_S) -> Iterator[list[Path]]:
    """Keep other starts, and other changes of the keys in *directory*, waiting; yield [directory] if this has made it.

    A missing directory is made with *make*. Otherwise it has no keys, and there is nothing to wait for.

    Raises:
        ConfigError: Another process has not ended its start or its change within *wait_s*.
    """
    made: list[Path] = []
    deadline = time.monotonic() + wait_s
    while (descriptor := _opened(directory, made if make else None)) is not None:
        if _is_locked(descriptor, directory):
            break
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise ConfigError(
                f"another process has used the keys in {directory} for {wait_s:g} s, to start an instance or to change "
                "its keys; wait until it ends, or end it, and try again; nothing was changed"
            )
        time.sleep(LOOK_S)
    try:
        yield made
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child of a fork may have the descriptor too
            os.close(descriptor)


def _opened(directory: Path, made: list[Path] | None) -> int | None:
    """Return a descriptor of *directory*, which is made and added to *made* if it is missing; None if it has none.

    The work in the directory finds the same problem, and names it.
    """
    try:
        if made is not None and not os.path.lexists(directory):
            kept_directory(directory)
            made[:] = [directory]
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _is_locked(descriptor: int, directory: Path) -> bool:
    """Try to lock the open *directory*; return whether it has the lock, or is on a file system without such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(directory))
    except (BlockingIOError, FileNotFoundError):  # it is in use, or was removed
        return False
    except OSError:  # such as NFS, which locks files only
        return True


def kept_key(name: str, key_file: str | None, state: str | None = None) -> tuple[Key, list[Path]]:
    """Return the secrets of instance *name*, and the directory and the files that this call has made.

    The file with the secrets is made if it does not exist. The key files of the roles are written if they lack, or have
    an older key.

    Raises:
        ConfigError: The file does not hold secrets, others can read it, or it cannot be written.
    """
    path = secret_file(name, key_file, state)
    key = read_secrets(path)
    made = [] if os.path.lexists(path.parent) else [path.parent]
    try:
        if key is None:
            key = Key()
            if key_file is None:
                kept_directory(path.parent)
            write_private(path, _lines_of(key))
            made.append(path)
        _write_role_files(path.parent, name, key, made)
    except BaseException as error:
        _remove(made)
        if not isinstance(error, OSError):
            raise
        remedy = (
            "give another key_file= (--key-file)"
            if key_file is not None
            else "give another directory with state= (--state)"
            if state is not None
            else f"set {STATE_VARIABLE} to a directory of this user, or give one with state= (--state)"
        )
        raise ConfigError(f"the keys cannot be kept in {path.parent}: {error.strerror or error}; {remedy}") from None
    return key, made


def read_secrets(path: Path) -> Key | None:
    """Return the secrets in the file at *path*; None if there is no such file.

    Raises:
        UnusableFile: The file does not hold secrets, or others can read it.
    """
    data = read_private(path, "secret")
    if data is None:
        return None
    keys = [_key_of(line, path, _RESTORE) for line in _lines(data, path, _RESTORE)]
    if not keys or any(role != SECRET for role, _ in keys):
        raise UnusableFile(f"{path} does not hold the secret of an instance; give the path of another file")
    return Key.joined([key for _, key in keys])


def write_secrets(path: Path, name: str, key: Key) -> None:
    """Replace the secrets in the file at *path*, and the key files of the roles beside it.

    Raises:
        ConfigError: A file cannot be written. The secrets are as before.
    """
    before = read_private(path, "secret")
    try:
        write_private(path, _lines_of(key))
        try:
            _write_role_files(path.parent, name, key, [])
        except OSError:
            if before is not None:
                write_private(path, before)
            raise
    except OSError as error:
        raise ConfigError(
            f"the keys in {path.parent} cannot be written: {error.strerror or error}; nothing was changed; make room "
            "or correct the directory there, and try again"
        ) from None


def read_key_file(path: Path) -> tuple[str, Key]:
    """Return the role of the key file at *path*, such as "forward", and its key.

    Raises:
        UnusableFile: There is no such file, it does not hold a key, or others can read it.
    """
    data = read_private(path, "key")
    if data is None:
        raise UnusableFile(f"there is no key file {path}; copy it from the host on which the instance was started")
    lines = _lines(data, path)
    if not lines:
        raise UnusableFile(f"{path} is empty; a key file has a line that begins with {FORMAT}")
    return _key_of(lines[0], path)


def forget_keys(name: str, key_id: bytes, state: str | None) -> None:
    """Remove the files with the keys of instance *name* from its state directory, if they are those of *key_id*."""
    directory = secret_file(name, None, state).parent
    try:
        key = read_secrets(directory / SECRET)
    except ConfigError:
        return
    if key is not None and key.with_id(key_id) is not None:
        _remove([directory, directory / SECRET, *(role_file(directory, name, role) for role in OF_FILES)])


def _remove(paths: list[Path]) -> None:
    """Remove the files at *paths*, the last one first, and the directories there that are then empty."""
    for path in reversed(paths):
        if path.is_dir():
            with suppress(OSError):  # other files are there
                path.rmdir()
        elif os.path.lexists(path):  # otherwise it was not made, and a read-only disk would have another error
            path.unlink(missing_ok=True)


def _write_role_files(directory: Path, name: str, key: Key, made: list[Path]) -> None:
    """Write the key files that lack or have another key; add those that did not exist to *made*."""
    for role in OF_FILES:
        path = role_file(directory, name, role)
        line = _line(role.name.lower(), key.id, key.of(role))
        old = read_private(path, "key")
        if old != line:
            write_private(path, line)
        if old is None:
            made.append(path)


def _lines_of(key: Key) -> bytes:
    return b"".join(_line(SECRET, each.id, each.secret) for each in key.each)


def _line(role: str, id: bytes, key: bytes) -> bytes:
    return f"{FORMAT} {role} {id.hex()} {key.hex()}\n".encode()


def _lines(data: bytes, path: Path, remedy: str = _COPY_AGAIN) -> list[str]:
    """Return the lines that are not blank."""
    try:
        return [line for line in data.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UnusableFile(f"{path} is not a key file: it is not ASCII text; {remedy}") from None


def _key_of(line: str, path: Path, remedy: str = _COPY_AGAIN) -> tuple[str, Key]:
    words = line.split()
    if len(words) != 4 or words[0] != FORMAT:
        if words[0] != FORMAT and words[0].startswith("serve-bridge-key-"):
            raise UnusableFile(
                f"{path} has the format {words[0]}, and this version reads {FORMAT} only; install a newer one"
            )
        raise UnusableFile(f"{path} is not a key file: a line does not have the form `{FORMAT} ROLE ID KEY`; {remedy}")
    _, role, id, key = words
    try:
        if role == SECRET:
            return SECRET, Key(bytes.fromhex(key))
        found = Role[role.upper()]
        if found in OF_FILES:
            return role, Key.of_role(found, bytes.fromhex(key), bytes.fromhex(id))
    except (KeyError, ValueError):
        pass
    raise UnusableFile(f"{path} is not a key file: its role or its key is malformed; {remedy}")


def key_path() -> Path:
    """Return the path in SERVE_BRIDGE_KEY_FILE.

    Raises:
        ConfigError: The variable is not set, or is not an absolute path.
    """
    value = os.environ.get(KEY_FILE_VARIABLE)
    if not value:
        raise ConfigError(
            f"an address that begins with serve-bridge:// needs a key: set {KEY_FILE_VARIABLE} to the path of a key "
            "file, such as NAME.forward.key from the host on which the instance was started"
        )
    check_no_key(KEY_FILE_VARIABLE, value, "the absolute path of a key file")
    if not os.path.isabs(value) or CONTROL.search(value) or value != value.rstrip():
        raise ConfigError(
            f"{KEY_FILE_VARIABLE}={value!r} must be the absolute path of a key file, without a line feed or a space "
            "after it"
        )
    return Path(value)
