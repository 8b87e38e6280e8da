"""How the process of a replica has ended: its exit code or its signal. Ray reaps its workers, and tells neither.

Rule 1: a process notes the code of `os._exit` by itself, in Ray's key-value store, for a controller on any node.
Rule 2: the controller holds a pidfd of each process on its own node. From Linux 6.15 on that tells how the process has
    ended, by a signal too.
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
"""How long `os._exit` waits for its note to be taken."""
EXIT_S: Final = 0.3
"""How long a process may take to exit after its sockets were closed."""
REAP_S: Final = 1.0
"""How long Ray may take to reap it."""
_POLL_S: Final = 0.01
_INFO: Final = struct.Struct("=Q52xi")
"""The fields `mask` and `exit_code` of Linux's `struct pidfd_info`."""
_HAS_EXIT: Final = 1 << 3
_GET_INFO: Final = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11


def note_key(generation: str, replica: str) -> bytes:
    """Return the key of the note about how *replica* has ended."""
    return f"{generation}/exit/{replica}".encode()


def note_exits(key: bytes, namespace: bytes) -> None:
    """Let `os._exit` of this process, not of its forked children, note its code under *key*."""
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

    os._exit = noted  # type: ignore[assignment]  # it returns as little


def watched(process: int) -> int | None:
    """Return a pidfd of *process*, which runs on this node; None if it has ended or the system has none."""
    if not hasattr(os, "pidfd_open"):
        return None
    with contextlib.suppress(OSError):
        return os.pidfd_open(process)
    return None


async def end_of(watch: int) -> str:
    """Return how the process behind the pidfd *watch* has ended; "" if it runs, or the system does not tell."""
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
    """Return *code*, which is negative for a signal, in words."""
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
