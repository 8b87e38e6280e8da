"""What the C library's allocator keeps of memory that was freed, in the processes that are the engine's own.

By default it gives blocks above 128 KiB, and what is free at the heap's end, back to the system at once; the next body
of some megabytes then takes its memory page by page, which costs more than all else that is done with it.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

KEPT_BYTES: Final = 32 << 20
"""The most that stays with the heap, and the longest block that comes from there; longer ones come and go."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_heap() -> None:
    """Let this process keep `KEPT_BYTES` of what it has freed, unless its environment says what it keeps."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
