"""Whether an instance lives: a process listens where its controller should."""

from __future__ import annotations

import os
import socket
from typing import Final

from serve_bridge.instance.instance import Instance

CONNECT_TIMEOUT_S: Final = 1.0
"""Upper limit for a try to connect to a controller on another machine, in seconds."""


def is_alive(instance: Instance) -> bool:
    """Return whether a process listens at the address of the controller: on this machine, or over TCP."""
    return _connect_error(instance) is None


def refuses(instance: Instance) -> bool:
    """Return whether certainly no process listens. It is not certain if, for example, a network drops packets."""
    return isinstance(_connect_error(instance), ConnectionRefusedError)


def _connect_error(instance: Instance) -> OSError | None:
    """Return why no connection to the controller can be made; None if one can."""
    controller = instance.controller
    if os.path.exists(controller.unix) and _listens(controller.unix):
        return None
    if controller.tcp is None:
        return ConnectionRefusedError()
    try:
        socket.create_connection(controller.tcp, CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return error
    return None


def _listens(path: str) -> bool:
    try:
        probe = socket.socket(socket.AF_UNIX)
    except OSError:  # this process lacks descriptors, so it cannot know
        return True
    with probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # a process listens, but other connections wait before this one
        except OSError:
            return False
    return True
