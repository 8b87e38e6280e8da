"""The files of an instance that has ended without removing them, as after `ray stop`.

Rule 1: files are removed only if nothing listens at the address of the controller, and no process on this machine
    claims the directory of the instance.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from serve_bridge.errors import NotConnected
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.liveness import refuses
from serve_bridge.wire.directory_lock import remove_unclaimed

RESTART_S: Final = 10.0
"""Seconds that a controller may need for a restart. A controller that listens again within this time has not ended."""


def remove_remains(address: str | None, name: str) -> str:
    """Remove the files of the instance that `connect` would look for, which has ended; return its name.

    Raises:
        NotConnected: There is no such instance on this machine, or a process of it may still run.
        ConfigError: *address* is not an address.
    """
    found = instances.find(address, name)
    if not os.path.isdir(found.directory):
        raise NotConnected(f"instance {found.name!r} does not answer, and it was not started on this machine")
    ends = time.monotonic() + RESTART_S
    while refuses(found) and time.monotonic() < ends:
        time.sleep(0.1)
    if not refuses(found) or not remove_unclaimed(Path(found.directory)):
        raise NotConnected(
            f"the controller of instance {found.name!r} does not answer, but other processes of it may still run; end "
            "them with `ray stop` on each node, then try again"
        )
    instances.remove(found)
    return found.name
