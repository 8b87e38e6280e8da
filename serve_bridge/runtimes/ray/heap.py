"""What the C library's allocator keeps of memory that was freed, in the processes that are the engine's own.

By default it gives blocks above 128 KiB, and what is free at the heap's end, back to the system at once; the next body
of some megabytes then takes its memory page by page, which costs more than all else that is done with it. So memory is
kept while there is work, and given back when there is none.
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
"""The most that stays with the heap, and the longest block that comes from there; longer ones come and go."""
LOOK_S: Final = 2.0
"""How often to see whether there is work, and to give back at most: to fault all in again takes a hundredth of that."""
IDLE_SHARE: Final = 0.1
"""A process that takes less of a processor than this has none."""
WORTH_BYTES: Final = 1 << 20
"""A process that has taken less than this from the system, since it last gave back, has nothing worth giving back."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LONG_BLOCK_BYTES: Final = 128 << 10
"""To free a block of this size makes the allocator look at the heap's end; shorter ones are put by."""


def keep_heap() -> None:
    """Let this process keep `KEPT_BYTES` of what it frees until it is idle, unless its environment says what it keeps.

    To be called on the loop on which bodies pass: its thread's memory is what is given back.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        _Heap(ctypes.CDLL(None))
    except (AttributeError, OSError):  # another C library
        return


class _Heap:
    """Gives back once each time that there has been work which took memory, as starting does, and there is none now."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._malloc, self._free = library.malloc, library.free
        self._malloc.argtypes, self._malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        self._free.argtypes, self._free.restype = [ctypes.c_void_p], None
        self._mallopt, self._malloc_trim = library.mallopt, library.malloc_trim
        self._mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        self._mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        self._loop = asyncio.get_running_loop()
        self._used_s, self._pages_before = 0.0, 0
        self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        used_s, pages = _used()
        idle = used_s - self._used_s < IDLE_SHARE * LOOK_S
        self._used_s = used_s
        if idle and (pages - self._pages_before) * mmap.PAGESIZE >= WORTH_BYTES:
            self._give_back()
            self._pages_before = pages
        self._loop.call_later(LOOK_S, self._look)

    def _give_back(self) -> None:
        # `malloc_trim` leaves the end of each heap but the main thread's; this loop's is not, and bodies lie there.
        self._mallopt(_M_TRIM_THRESHOLD, 0)
        self._free(self._malloc(_LONG_BLOCK_BYTES))
        self._mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        threading.Thread(target=self._malloc_trim, args=(0,), daemon=True).start()  # it looks at all that is free


def _used() -> tuple[float, int]:
    """Return how many seconds this process has run, and how many pages it has taken from the system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_minflt
