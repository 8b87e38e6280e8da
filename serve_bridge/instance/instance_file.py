"""The file by which an instance is found: where its controller listens, and the key.

Rule 1: the file is 0600 in a 0700 directory of its user. A file with more permissions is refused.
Rule 2: an address is the path of such a file. A running instance also has a copy in the base directory, where `connect`
    looks for it by name.
Rule 3: a replica reads no such file: it is started with the instance (see `membership`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from serve_bridge.config.checks import check_no_key
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance.directories import base_directories, base_directory, directory_name
from serve_bridge.instance.instance import FILE_NAME, Instance
from serve_bridge.instance.liveness import is_alive
from serve_bridge.instance.private_file import UnusableFile, read_private, write_private
from serve_bridge.instance.remote_address import is_remote, parsed
from serve_bridge.instance.tls_files import with_own_tls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key
from serve_bridge.wire.socket_files import private_directory

ADDRESS_VARIABLE: Final = "SERVE_BRIDGE_ADDRESS"


def write(instance: Instance) -> None:
    """Write the instance's file, and its copy. Another live instance of the same name keeps its copy."""
    _write(Path(instance.address), instance)
    by_name = _copy_of(instance)
    other = read_if_valid(by_name)
    if other is None or not _keeps_name(other, instance):
        _write(by_name, instance)


def _keeps_name(other: Instance, instance: Instance) -> bool:
    """Return whether *other* is a live instance beside *instance*."""
    if other.generation == instance.generation:
        return False
    # With a fixed address, *instance* itself listens where a killed *other* did, so a try to connect would succeed.
    if other.controller.tcp is not None and other.controller.tcp == instance.controller.tcp:
        return False
    return is_alive(other)


def are_missing(instance: Instance) -> bool:
    """Return whether the instance's file or its copy is missing."""
    return bool(_missing(instance))


def write_missing(instance: Instance) -> None:
    """Write the instance's file and its copy again if they are missing.

    Raises:
        OSError: A file cannot be written.
    """
    for path in _missing(instance):
        private_directory(path.parent)
        _write(path, instance)


def _missing(instance: Instance) -> list[Path]:
    return [path for path in (Path(instance.address), _copy_of(instance)) if not os.path.lexists(path)]


def update_here(instance: Instance) -> None:
    """Write the new address of the controller into the files of *instance* on this machine."""
    name = directory_name(instance.name, instance.generation)
    for path in (
        path for base in base_directories() for path in (base / f"{instance.name}.json", base / name / FILE_NAME)
    ):
        update(path, instance.generation, instance.controller, instance.key)


def update(path: Path, generation: str, controller: SocketAddress, key: Key | None = None) -> None:
    """Write the new address of the *controller*, and its new *key*, into the file at *path* of this *generation*."""
    found = read_if_valid(path)
    if found is None or found.generation != generation:
        return
    new = msgspec.structs.replace(found, controller=controller).with_key(key or found.key)
    if new != found:
        _write(path, new)


def remove_here(name: str, generation: str) -> None:
    """Remove the files and sockets of an instance on this machine; it was started on another one."""
    for base in base_directories():
        copy = base / f"{name}.json"
        found = read_if_valid(copy)
        if found is not None and found.generation == generation:
            copy.unlink(missing_ok=True)
        shutil.rmtree(base / directory_name(name, generation), ignore_errors=True)


def remove(instance: Instance) -> None:
    """Remove the instance's files and directory. Missing ones are no error."""
    by_name = _copy_of(instance)
    found = read_if_valid(by_name)
    if found is not None and found.generation == instance.generation:
        by_name.unlink(missing_ok=True)
    # A process of the instance may still end, and add or remove its socket there.
    shutil.rmtree(instance.directory, ignore_errors=True)


def discovery_file(name: str) -> Path:
    """Return the path of the copy of a running instance's file."""
    return base_directory() / f"{name}.json"


def _copy_of(instance: Instance) -> Path:
    # Beside the instance's directory, because this process may have another XDG_RUNTIME_DIR than the caller of `start`.
    return Path(instance.directory).with_name(f"{instance.name}.json")


def find(address: str | None, name: str) -> Instance:
    """Return the instance at *address*, or at SERVE_BRIDGE_ADDRESS, or the one called *name* of this user.

    The first given one of these counts.

    Raises:
        NotConnected: There is no instance; the message names the three places.
        ConfigError: The given value is not the address of an instance; the message says where it was given.
    """
    variable = os.environ.get(ADDRESS_VARIABLE)
    if address is not None:
        return _read_given(address, "address")
    if variable:
        return _read_given(variable, ADDRESS_VARIABLE)
    found = _read_if_any(discovery_file(name))
    if found is None:
        raise NotConnected(
            f"no running instance {name!r} found: no address was passed, {ADDRESS_VARIABLE} is not set, and "
            f"there is no file {discovery_file(name)}; "
            "start one with serve_bridge.start() or `serve-bridge start`"
        )
    return with_own_tls(found)


def reread_key(address: str, generation: str) -> Key | None:
    """Return the key that is now at *address* of the instance *generation*; None if there is none."""
    try:
        if is_remote(address):
            from serve_bridge.instance.key_files import key_path, read_key_file  # late: only web hosts need it

            return read_key_file(key_path())[1]
        found = _read_if_any(Path(address))
    except ConfigError:
        return None
    return None if found is None or found.generation != generation else found.key


def _read_given(address: str, source: str) -> Instance:
    if not isinstance(address, str):
        raise TypeError(f"{source} must be the address of an instance, got {type(address).__name__}")
    check_no_key(source, address, "serve-bridge://HOST:PORT/NAME or the path of an instance's file")
    if is_remote(address):
        from serve_bridge.instance.remote_instance import find_remote  # late: only web hosts need it

        return find_remote(parsed(address, source))
    if not os.path.isabs(address) or not address.endswith(".json") or "\0" in address:
        raise ConfigError(
            f"{source}={address!r} is not an address: use the path of an instance's file, such as client.address, or "
            f"serve-bridge://HOST:PORT/NAME"
        )
    found = _read_if_any(Path(address))
    if found is None:
        raise NotConnected(
            f"no instance is running at {source}={address!r}; looked for in: the argument, "
            f"{ADDRESS_VARIABLE}, the files in {base_directory()} (only the first one given counts); start it, or "
            "correct the address"
        )
    return with_own_tls(found)


def _read_if_any(path: Path) -> Instance | None:
    """Return the instance in the file at *path*; None if there is no such file.

    Raises:
        UnusableFile: *path* is not a regular file of this user alone, or does not hold an instance.
    """
    data = read_private(path, "instance")
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Instance)
    except ValueError as error:  # from msgspec, or because the text is not UTF-8
        raise UnusableFile(f"{path} is not the file of an instance: {error}") from None


def read_if_valid(path: Path) -> Instance | None:
    """Return the instance in the file at *path*; None also if the file is bad, as after a crash."""
    try:
        return _read_if_any(path)
    except ConfigError:
        return None


def _write(path: Path, instance: Instance) -> None:
    # Without a flush, because event loops write it, and because an instance does not outlive a loss of power.
    write_private(path, msgspec.json.encode(instance), flush=False)


def lasting_address(instance: Instance) -> str:
    """Return an address for this and the next start of the same name: the path of the copy.

    If another instance has the copy, it is the address of *instance* alone.
    """
    by_name = discovery_file(instance.name)
    found = read_if_valid(by_name)
    return str(by_name) if found is not None and found.generation == instance.generation else instance.address
