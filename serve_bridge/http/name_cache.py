"""A cache of the meanings of names, with limits in bytes and in entries.

Names come from clients and backends, so one name can be as long as a whole head. A cache with a limit for entries only
would keep a thousand such names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["NameCache"]

LONGEST: Final = 64
"""Upper limit for the length of a cached name. Registered header names have at most 36 characters."""
ENTRIES: Final = 1024
"""Upper limit for the entries of a cache."""

Name = TypeVar("Name", str, bytes)
Meaning = TypeVar("Meaning")


class NameCache(dict[Name, Meaning]):
    """Maps a name to the result of *find*: ``cache[name]``. A hit costs one look-up in a dict.

    Long names are not cached. A full cache is emptied, and then fills again with the names in use. Threads may share a
    cache.
    """

    _find: Callable[[Name], Meaning]

    def __init__(self, find: Callable[[Name], Meaning]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, name: Name) -> Meaning:
        """Find and cache the meaning of *name*. If *find* raises, its exception leaves and nothing is cached."""
        meaning = self._find(name)
        if len(name) <= LONGEST:
            if len(self) >= ENTRIES:
                self.clear()
            self[name] = meaning
        return meaning
