"""The file by which an instance is found: where its controller listens, and the key.

Rule 1: the file is 0600 in a 0700 directory of its user; one that others can read is refused.
Rule 2: an address is the path of such a file. A running instance also leaves a copy where `connect` looks by
    name.
Rule 3: a replica has no such file: it is told what the file says, and so are all handles that arrive in its process.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.socket_files import Claim, private_directory, remove_unclaimed

ADDRESS_VARIABLE: Final = "SERVE_BRIDGE_ADDRESS"
_FILE = "instance.json"
_RUNTIME_VARIABLE: Final = "XDG_RUNTIME_DIR"


class UnusableFile(ConfigError):
    """The file at an address is not one by which an instance may be joined."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What a client must know of an instance.

    Attributes:
        name: Its name.
        generation: Which start of that name it is.
        runtime: What launches its replicas: "ray" or "local".
        directory: Where its sockets on this machine are.
        controller: Where its controller listens.
        secret: The key as `Key.text`; `repr` leaves it out.
    """

    name: str
    generation: str
    runtime: str
    directory: str
    controller: ReplicaAddress
    secret: str

    @property
    def key(self) -> Key:
        """The key that both ends of every connection hold."""
        return Key.of_text(self.secret)

    def only(self, *roles: Role) -> Instance:
        """Return the same with the keys of *roles* only, for a process that speaks for these."""
        return msgspec.structs.replace(self, secret=self.key.only(*roles).text)

    @property
    def address(self) -> str:
        """What `connect` and SERVE_BRIDGE_ADDRESS take."""
        return os.path.join(self.directory, _FILE)

    def __repr__(self) -> str:
        return f"Instance(name={self.name!r}, generation={self.generation!r}, address={self.address!r})"


_joined: dict[str, Instance] = {}


def join(instance: Instance) -> None:
    """Note that this process is a part of *instance*, so that clients of it need no file."""
    _joined[instance.generation] = instance


def joined(generation: str) -> Instance | None:
    """Return the instance of *generation* if this process is a part of it."""
    return _joined.get(generation)


def leave(generation: str) -> None:
    """Forget what `join` has noted."""
    _joined.pop(generation, None)


def new_generation() -> str:
    """Return a name for one start of an instance."""
    return secrets.token_hex(4)


def base_directory() -> Path:
    """Return the directory of this user's instances: in XDG_RUNTIME_DIR, else in the temporary directory."""
    runtime = os.environ.get(_RUNTIME_VARIABLE)
    if runtime:
        return Path(runtime) / "serve_bridge"
    return _temporary_directory()


def _temporary_directory() -> Path:
    return Path(tempfile.gettempdir()) / f"serve_bridge-{os.geteuid()}"


def directory_here(name: str) -> Path:
    """Return where the sockets of an instance go that was started on another machine, in a directory called *name*.

    It is in XDG_RUNTIME_DIR if this user can write there, which takes a login; else in the temporary directory.

    Raises:
        OSError: Neither can be used.
    """
    try:
        private_directory(base_directory())
    except OSError:
        if not os.environ.get(_RUNTIME_VARIABLE):
            raise
    else:
        return base_directory() / name
    private_directory(_temporary_directory())
    return _temporary_directory() / name


def claim_directory(name: str, generation: str) -> Claim:
    """Make the directory of one instance, for its sockets and its file; return the caller's claim on it.

    The directory stays while a process claims it; each process that listens there does. What instances have left that
    were killed is removed first.

    Raises:
        OSError: The directory, or the one above it, is open to other users or belongs to one.
    """
    try:
        private_directory(base_directory())
    except OSError as error:
        if not os.environ.get(_RUNTIME_VARIABLE):
            raise OSError(
                f"{error}; or set {_RUNTIME_VARIABLE} to a directory of this user that others cannot enter, such as "
                f"/run/user/{os.geteuid()}, or {Path.home() / '.cache' / 'serve_bridge'}"
            ) from None
        raise OSError(
            f"{_RUNTIME_VARIABLE}={os.environ[_RUNTIME_VARIABLE]!r} cannot hold the sockets of an instance: "
            f"{error.strerror or error}; set it to a directory of this user, or unset it"
        ) from None
    _sweep()
    return Claim(base_directory() / _directory_name(name, generation))


def _directory_name(name: str, generation: str) -> str:
    # A name may have 128 characters and a socket's path 107; the generation is what makes it unique.
    return f"{name[:24]}-{generation}"


def _sweep() -> None:
    """Remove what instances left behind that were killed: directories that no process claims, and their copies."""
    for directory in base_directory().iterdir():
        remove_unclaimed(directory)
    for path in base_directory().glob("*.json"):
        found = _read_if_sound(path)
        # One with the Ray runtime may be on another machine, and its file be here because somebody has put it here.
        if found is not None and found.runtime == "local" and not os.path.isdir(found.directory):
            path.unlink(missing_ok=True)


def write(instance: Instance) -> None:
    """Write the instance's file, and the copy by name unless another live instance has that."""
    _write_private(Path(instance.address), instance)
    by_name = _by_name(instance)
    other = _read_if_sound(by_name)
    if other is None or other.generation == instance.generation or not is_alive(other):
        _write_private(by_name, instance)


def update_here(instance: Instance) -> None:
    """Let the files of *instance* that are on this machine say where its controller is now."""
    name = _directory_name(instance.name, instance.generation)
    for path in (path for base in _bases() for path in (base / f"{instance.name}.json", base / name / _FILE)):
        update(path, instance.generation, instance.controller)


def update(path: Path, generation: str, controller: ReplicaAddress) -> None:
    """Let the file at *path* say where the controller is now, if it is a file of the instance *generation*."""
    found = _read_if_sound(path)
    if found is not None and found.generation == generation and found.controller != controller:
        _write_private(path, msgspec.structs.replace(found, controller=controller))


def remove_here(name: str, generation: str) -> None:
    """Remove the files and sockets that the instance has on this machine, where it was not started."""
    for base in _bases():
        copy = base / f"{name}.json"
        found = _read_if_sound(copy)
        if found is not None and found.generation == generation:
            copy.unlink(missing_ok=True)
        shutil.rmtree(base / _directory_name(name, generation), ignore_errors=True)


def _bases() -> set[Path]:
    return {base_directory(), _temporary_directory()}


def remove(instance: Instance) -> None:
    """Remove the instance's files and directory; missing ones are fine."""
    by_name = _by_name(instance)
    found = _read_if_sound(by_name)
    if found is not None and found.generation == instance.generation:
        by_name.unlink(missing_ok=True)
    # A process that is ending may still add or remove its socket there.
    shutil.rmtree(instance.directory, ignore_errors=True)


def discovery_file(name: str) -> Path:
    """Return where a running instance *name* leaves the copy of its file."""
    return base_directory() / f"{name}.json"


def _by_name(instance: Instance) -> Path:
    # Beside the directory, not where this process would look: a Ray node may have another XDG_RUNTIME_DIR than `start`.
    return Path(instance.directory).with_name(f"{instance.name}.json")


def find(address: str | None, name: str) -> Instance:
    """Return the instance at *address*, else at SERVE_BRIDGE_ADDRESS, else the one called *name* here.

    Raises:
        NotConnected: There is none; the message names the three places.
        ConfigError: What was given is no instance's address; the message says which of the places gave it.
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
    return found


def _read_given(address: str, source: str) -> Instance:
    if not isinstance(address, str):
        raise TypeError(f"{source} must be the path of an instance's file, got {type(address).__name__}")
    if not os.path.isabs(address) or not address.endswith(".json") or "\0" in address:
        raise ConfigError(
            f"{source}={address!r} is no address: an address is the path of an instance's file, as client.address is"
        )
    found = _read_if_any(Path(address))
    if found is None:
        raise NotConnected(
            f"no instance is running at {source}={address!r}; looked for in: the argument, "
            f"{ADDRESS_VARIABLE}, the files in {base_directory()} (only the first one given counts)"
        )
    return found


def _read_if_any(path: Path) -> Instance | None:
    """Return what *path* holds; None if there is no such file.

    Raises:
        UnusableFile: *path* is not a regular file of this user alone, or does not hold an instance.
    """
    try:
        # Without waiting: the open of a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnusableFile(
                f"{path} is a link; give the path of the file itself, {os.path.realpath(path)}"
            ) from None
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnusableFile(f"{path} is not a regular file, so it holds no instance")
        if found.st_uid != os.geteuid():
            raise UnusableFile(f"{path} belongs to another user; an instance is joined by its own user only")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UnusableFile(f"{path} holds a key and must be readable by its user alone; chmod 600 {path}")
        data = os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
    try:
        return msgspec.json.decode(data, type=Instance)
    except ValueError as error:  # of msgspec, or of text that is no UTF-8
        raise UnusableFile(f"{path} is no instance's file: {error}") from None


def _read_if_sound(path: Path) -> Instance | None:
    """As `_read_if_any`, but None of a file that says nothing, as a crash or another version may leave one."""
    try:
        return _read_if_any(path)
    except ConfigError:
        return None


def _write_private(path: Path, instance: Instance) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(instance))
    os.replace(draft, path)


def lasting_address(instance: Instance) -> str:
    """Return the address that the next start of *instance*'s name will have too; its own if another has the name."""
    by_name = discovery_file(instance.name)
    found = _read_if_sound(by_name)
    return str(by_name) if found is not None and found.generation == instance.generation else instance.address


def is_alive(instance: Instance) -> bool:
    """Whether a process listens where *instance*'s controller should: here, or over TCP on another machine."""
    return _silence_of(instance) is None


def refuses(instance: Instance) -> bool:
    """Whether it is certain that no process listens for *instance*, as it is not where a network drops packets."""
    return isinstance(_silence_of(instance), ConnectionRefusedError)


def _silence_of(instance: Instance) -> OSError | None:
    """Return why no process listens where *instance*'s controller should; None if one does."""
    controller = instance.controller
    if os.path.exists(controller.unix) and _answers(controller.unix):
        return None
    if controller.tcp is None:
        return ConnectionRefusedError()
    try:
        socket.create_connection(controller.tcp, 1.0).close()
    except OSError as error:
        return error
    return None


def _answers(path: str) -> bool:
    try:
        probe = socket.socket(socket.AF_UNIX)
    except OSError:  # this process lacks descriptors, which is no news about the other
        return True
    with probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # it listens, and has not come to those before
        except OSError:
            return False
    return True
