"""The freed memory that the C library's allocator keeps, in proxies and replicas.

By default it returns blocks above 128 KiB, and free memory at the end of the heap, to the system at once. The next
large body then gets its memory page by page, and these page faults cost more than the rest of its processing. So a
process keeps freed memory while it works, and returns it when it is idle.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import resource
import threading
from typing import Final

KEPT_BYTES: Final = 32 << 20
"""Upper limit for the kept memory, in bytes. Longer blocks are always returned at once."""
CHECK_S: Final = 2.0
"""Seconds between two checks for work. Getting all kept memory back takes a hundredth of this time."""
IDLE_SHARE: Final = 0.1
"""A process that uses a smaller share of a processor than this is idle."""
WORTH_BYTES: Final = 1 << 20
"""Lower limit for the memory to return, in bytes: the memory taken from the system since the last return."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LONG_BLOCK_BYTES: Final = 128 << 10
"""Size of a block whose release makes the allocator check the end of the heap, in bytes; shorter ones do not."""


def keep_heap() -> None:
    """Let this process keep `KEPT_BYTES` of freed memory until it is idle, unless its environment has such options.

    Call it on the loop that transfers bodies, because it returns the memory of this thread.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        _Heap(ctypes.CDLL(None))
    except (AttributeError, OSError):  # another C library
        return


class _Heap:
    """Returns memory once after each period of work that took memory; the start is such a period."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._malloc, self._free = library.malloc, library.free
        self._malloc.argtypes, self._malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        self._free.argtypes, self._free.restype = [ctypes.c_void_p], None
        self._mallopt, self._malloc_trim = library.mallopt, library.malloc_trim
        self._mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        self._mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        self._loop = asyncio.get_running_loop()
        self._used_s, self._pages_before = 0.0, 0
        self._loop.call_later(CHECK_S, self._look)

    def _look(self) -> None:
        used_s, pages = _used()
        idle = used_s - self._used_s < IDLE_SHARE * CHECK_S
        self._used_s = used_s
        if idle and (pages - self._pages_before) * mmap.PAGESIZE >= WORTH_BYTES:
            self._give_back()
            self._pages_before = pages
        self._loop.call_later(CHECK_S, self._look)

    def _give_back(self) -> None:
        # `malloc_trim` checks the end of the heap of the main thread only. Bodies lie in the heap of this thread.
        self._mallopt(_M_TRIM_THRESHOLD, 0)
        self._free(self._malloc(_LONG_BLOCK_BYTES))
        self._mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        threading.Thread(target=self._malloc_trim, args=(0,), daemon=True).start()  # it visits all free memory


def _used() -> tuple[float, int]:
    """Return the processor time of this process in seconds, and the number of its page faults."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_minflt
