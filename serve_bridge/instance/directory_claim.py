"""Claims the directory of a new instance, and removes what killed instances have left."""

from __future__ import annotations

import os

from serve_bridge.instance.directories import RUNTIME_VARIABLE, base_directory, directory_name, lasting_directory
from serve_bridge.instance.instance_file import read_if_valid
from serve_bridge.wire.directory_lock import Claim, remove_unclaimed
from serve_bridge.wire.socket_files import private_directory


def claim_directory(name: str, generation: str) -> Claim:
    """Make the directory of one instance, for its sockets and its file; return the caller's claim on it.

    The directory stays while a process claims it. Each process with a socket there claims it. The directories and files
    of killed instances are removed first.

    Raises:
        OSError: The directory, or the one above it, is open to other users or belongs to another user.
    """
    try:
        private_directory(base_directory())
    except OSError as error:
        if not os.environ.get(RUNTIME_VARIABLE):
            raise OSError(
                f"{error}; or set {RUNTIME_VARIABLE} to a directory of this user that others cannot enter, such as "
                f"/run/user/{os.geteuid()}, or {lasting_directory()}"
            ) from None
        raise OSError(
            f"{RUNTIME_VARIABLE}={os.environ[RUNTIME_VARIABLE]!r} cannot hold the sockets of an instance: "
            f"{error.strerror or error}; set it to a directory of this user, or unset it"
        ) from None
    _remove_leftovers()
    return Claim(base_directory() / directory_name(name, generation))


def _remove_leftovers() -> None:
    """Remove unclaimed directories, and the files of their instances."""
    for directory in base_directory().iterdir():
        remove_unclaimed(directory)
    for path in base_directory().glob("*.json"):
        found = read_if_valid(path)
        # The file of an instance on Ray may have been copied here from another machine, so it stays.
        if found is not None and found.runtime == "local" and not os.path.isdir(found.directory):
            path.unlink(missing_ok=True)
