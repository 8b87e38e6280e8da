"""How the process of a replica ended: its exit code or its signal. Ray reaps its workers, but reports neither.

Rule 1: a process itself notes the code of `os._exit` in Ray's key-value store, for a controller on any node.
Rule 2: the controller holds a pidfd of each process on its own node. Since Linux 6.15 a pidfd tells how its process
    ended, also by a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import struct
import threading
from typing import Final

from ray.experimental import internal_kv

NOTE_S: Final = 0.5
"""Upper limit for the wait of `os._exit` until its note is stored, in seconds."""
EXIT_S: Final = 0.3
"""Upper limit for the exit of a process after its sockets were closed, in seconds."""
REAP_S: Final = 1.0
"""Upper limit for Ray to reap an ended process, in seconds."""
_POLL_S: Final = 0.01
_INFO: Final = struct.Struct("=Q52xi")
"""The fields `mask` and `exit_code` of `struct pidfd_info` in Linux."""
_HAS_EXIT: Final = 1 << 3
_GET_INFO: Final = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11


def note_key(generation: str, replica: str) -> bytes:
    """Return the key of the note about the end of *replica*."""
    return f"{generation}/exit/{replica}".encode()


def note_exits(key: bytes, namespace: bytes) -> None:
    """Let `os._exit` note its code under *key*, in this process but not in forked children."""
    end, process = os._exit, os.getpid()

    def noted(status: int) -> None:
        if os.getpid() == process:
            put = internal_kv._internal_kv_put
            note = threading.Thread(
                target=put, args=(key, str(status).encode()), kwargs={"namespace": namespace}, daemon=True
            )
            with contextlib.suppress(Exception):
                note.start()
                note.join(NOTE_S)
        end(status)

    os._exit = noted  # type: ignore[assignment]  # neither function returns


def watched(process: int) -> int | None:
    """Return a pidfd of *process* on this node; None if it has ended, or if the system has no pidfds."""
    if not hasattr(os, "pidfd_open"):
        return None
    with contextlib.suppress(OSError):
        return os.pidfd_open(process)
    return None


async def end_of(watch: int) -> str:
    """Return how the process of the pidfd *watch* ended; "" if it runs, or if the system does not tell."""
    loop = asyncio.get_running_loop()
    until = loop.time() + EXIT_S
    while True:
        status = _exit_status(watch)
        if status is not None:
            return described(os.waitstatus_to_exitcode(status))
        if loop.time() >= until and (not _has_exited(watch) or loop.time() >= until + REAP_S):
            return ""
        await asyncio.sleep(_POLL_S)


def described(code: int) -> str:
    """Return *code* in words. A negative code is a signal."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


def _exit_status(watch: int) -> int | None:
    info = bytearray(_INFO.pack(_HAS_EXIT, 0))
    try:
        fcntl.ioctl(watch, _GET_INFO, info)
    except OSError:  # before Linux 6.13
        return None
    mask, status = _INFO.unpack(info)
    return int(status) if mask & _HAS_EXIT else None


def _has_exited(watch: int) -> bool:
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    return bool(poll.poll(0))
