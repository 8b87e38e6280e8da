"""A cache of what names stand for, bounded in bytes as well as in entries.

Names come from clients and backends, so one name can be as long as a whole head. A cache that counts entries alone
would keep a thousand of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["NameCache"]

LONGEST: Final = 64
"""Upper limit for the length of a cached name. Registered header names have at most 36 characters."""
ENTRIES: Final = 1024

Name = TypeVar("Name", str, bytes)
Meaning = TypeVar("Meaning")


class NameCache(dict[Name, Meaning]):
    """Maps a name to what *find* returns for it: ``cache[name]``. A hit costs one look-up in a dict.

    A long name is looked up each time. A cache that is full is emptied, and fills again with the names in use. Threads
    may share a cache.
    """

    _find: Callable[[Name], Meaning]

    def __init__(self, find: Callable[[Name], Meaning]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, name: Name) -> Meaning:
        """Find the meaning of *name*; raises what *find* raises, and then keeps nothing."""
        meaning = self._find(name)
        if len(name) <= LONGEST:
            if len(self) >= ENTRIES:
                self.clear()
            self[name] = meaning
        return meaning
