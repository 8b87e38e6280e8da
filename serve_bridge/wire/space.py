"""Memory for a body whose size is known before it arrives."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

HUGE_BYTES: Final = 4 << 20
"""From this size on memory comes in huge pages: to fault in small ones takes longer than to fill them."""


def space_for(size: int) -> memoryview:
    """Return *size* bytes to be written to, aligned.

    Raises:
        MemoryError: There are not so many.
    """
    if size < HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(size))
    try:
        space = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes: {error}") from None
    with suppress(OSError):  # a kernel without them
        space.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(space)
