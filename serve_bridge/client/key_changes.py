"""The change of an instance's keys: new ones beside the old ones, and later the end of the old ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serve_bridge.client.client import find_client, link_of
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance.directories import RUNTIME_VARIABLE
from serve_bridge.instance.instance_file import discovery_file
from serve_bridge.instance.key_files import alone_with_keys, read_secrets, secret_file, write_secrets
from serve_bridge.instance.operations import Operation
from serve_bridge.instance.state_directory import state_directory
from serve_bridge.state.state_files import StateFiles
from serve_bridge.wire.keys import Key

RENEW_S: Final = 30.0
"""Upper limit for all processes to take new keys, in seconds."""


def rotate_keys(name: str, key_file: str | None, state: str | None) -> tuple[str, bool]:
    """Make a new secret. The old ones stay valid, and the key files of the roles get the new key.

    Returns:
        The directory of the key files, and whether a running instance has the new keys.

    Raises:
        ConfigError: Instance *name* keeps no keys on this host, or its controller runs on another host.
        NotConnected: The instance does not answer in time.
    """
    return _change(name, key_file, state, lambda key: Key.joined([Key(), key]))


def retire_keys(name: str, key_file: str | None, state: str | None) -> tuple[str, bool]:
    """End all secrets but the newest one, and the connections that were made with them.

    Returns and raises as `rotate_keys`.
    """
    return _change(name, key_file, state, lambda key: key.each[0])


def _change(name: str, key_file: str | None, state: str | None, new: Callable[[Key], Key]) -> tuple[str, bool]:
    check_name("instance", name)
    path = secret_file(name, key_file, None if state is None else str(state_directory(name, state)))
    with alone_with_keys(path.parent):
        return _changed(name, path, state, new)


def _changed(name: str, path: Path, state: str | None, new: Callable[[Key], Key]) -> tuple[str, bool]:
    key = read_secrets(path)
    if key is None:
        raise ConfigError(
            f"instance {name!r} keeps no keys in {path}; run this on the host of `start`, with the same --key-file or "
            "--state"
        )
    try:
        client = find_client(str(discovery_file(name)), name)
    except NotConnected:
        client = None
    changed = new(key)
    if client is None:
        _check_ended(name, state)
        write_secrets(path, name, changed)
        return str(path.parent), False
    try:
        link = link_of(client)
        if not os.path.exists(link.instance.controller.unix):
            raise ConfigError(
                f"the controller of instance {name!r} runs on another host, and new keys must not travel over the "
                "network; nothing was changed"
            )
        if all(key.with_id(each.id) is None for each in link.instance.key.each):
            raise ConfigError(
                f"the keys in {path} are not those of instance {name!r}, which runs; give the --key-file or --state of "
                "its `start`; nothing was changed"
            )
        if all(changed.with_id(each.id) is None for each in link.instance.key.each):
            raise ConfigError(
                f"instance {name!r} does not have the newest key in {path}, since the last `keys rotate` did not end; "
                "run `serve-bridge keys rotate` again, and copy the key files; nothing was changed"
            )
        write_secrets(path, name, changed)
        link.operate(Operation.KEYS, changed.text, timeout_s=RENEW_S)
    finally:
        client.close()
    return str(path.parent), True


def _check_ended(name: str, state: str | None) -> None:
    """Raise ConfigError if a process keeps the state of instance *name*: then it runs, but this user cannot find it."""
    holder = StateFiles(state_directory(name, state)).holder()
    if holder is not None:
        raise ConfigError(
            f"instance {name!r} runs in process {holder}, and does not answer at {discovery_file(name)}; set "
            f"{RUNTIME_VARIABLE} as for its `start`; nothing was changed"
        )
