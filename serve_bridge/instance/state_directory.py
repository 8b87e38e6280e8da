"""The directory of what outlives an instance of a name: its keys and its state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

STATE_VARIABLE: Final = "XDG_STATE_HOME"


def state_directory(name: str, directory: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory for the state of instance *name*, below *directory* or below the user's own one.

    The directory need not exist.

    Raises:
        ConfigError: The user has no home directory.
    """
    return (_home() if directory is None else Path(os.path.abspath(directory))) / name


def chosen_state_directory(name: str, given: str | os.PathLike[str] | bool | None, *, detached: bool) -> Path | None:
    """Return the state directory of a new instance for the option `state`; None: the instance keeps no state.

    Args:
        name: The name of the instance.
        given: A directory; True: the user's own one; False: none; None: the user's own one for a detached instance.
        detached: Whether the instance outlives the process of its starter.

    Raises:
        ConfigError: *given* is something else, or the user has no home directory.
    """
    if given is None:
        given = detached
    if isinstance(given, bool):
        return state_directory(name) if given else None
    if not isinstance(given, str | os.PathLike) or not os.fspath(given) or "\0" in str(given):
        raise ConfigError(f"state must be a directory, or False to keep no state, got {shown(given)}")
    return state_directory(name, given)


def _home() -> Path:
    home = os.environ.get(STATE_VARIABLE)
    # The specification of XDG asks programs to ignore a relative path.
    if home and os.path.isabs(home):
        return Path(home) / "serve_bridge"
    try:
        return Path.home() / ".local" / "state" / "serve_bridge"
    except RuntimeError:  # such as in a container whose user has no entry in /etc/passwd
        raise ConfigError(
            f"this user has no home directory for the state of an instance; set {STATE_VARIABLE}, give a directory "
            "with state= (--state), or keep no state with state=False (--no-state)"
        ) from None
