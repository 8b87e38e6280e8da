"""The buffer for a body whose size is known before it arrives."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

HUGE_BYTES: Final = 4 << 20
"""Size in bytes from which a buffer uses huge pages. The page faults of small pages would take longer than the copy."""


def space_for(size: int) -> memoryview:
    """Return an aligned, writable buffer of *size* bytes.

    Raises:
        MemoryError: The system lacks memory.
    """
    if size < HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(size))
    try:
        space = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes: {error}") from None
    with suppress(OSError):  # a kernel without huge pages
        space.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(space)
