"""The links of this process, by instance: what one process holds once, and what happens to it at a fork and at exit.

Rule 1: after a fork the child has no thread and no socket of the parent. Each link starts afresh on first use.
Rule 2: at exit every loop thread ends before the interpreter takes its modules away.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

_logger: Final = logging.getLogger("serve_bridge.client")


class Link(Protocol):
    """A link of this process to one instance, as far as the registry needs it."""

    @property
    def known_generation(self) -> str | None:
        """The generation of the instance; None if its file has not been read yet."""

    def close(self) -> None:
        """Disconnect from the instance."""

    def start_afresh(self) -> None:
        """Give up the threads and sockets of the parent process, in a forked child."""


_links: weakref.WeakValueDictionary[str, Link] = weakref.WeakValueDictionary()
_open: weakref.WeakSet[Link] = weakref.WeakSet()
_running: set[Link] = set()
"""Links with a thread. They are held until `close`: otherwise their loops would end under running tasks at exit."""
_arrived: dict[str, Link] = {}
"""Links of unpickled handles, by generation. Each is kept, because a handle may live for one call only."""
_on_end: dict[str, Callable[[], None]] = {}
"""The last step of `shutdown` in the starting process of an instance, by generation."""
_inherited: list[Any] = []
"""Loops and locks of the parent process. They are kept: a child must not finalise the running loops of its parent."""


def opened(link: Link, generation: str | None) -> None:
    """Register a new link; *generation* is None if its file has not been read yet."""
    _open.add(link)
    if generation is not None:
        _links[generation] = link


def running(link: Link) -> None:
    """Hold *link*, whose thread starts now."""
    _running.add(link)


def closed(link: Link) -> None:
    """Drop *link*, which was closed."""
    for generation in [generation for generation, each in list(_arrived.items()) if each is link]:
        _arrived.pop(generation, None)
    _running.discard(link)


def known(generation: str) -> Link | None:
    """Return the link of this process to this start of an instance; None if there is none."""
    return _links.get(generation) or _arrived.get(generation)


def keep_arrived(generation: str, link: Link) -> Link:
    """Keep *link* for all unpickled handles of its generation; return the kept one."""
    return _arrived.setdefault(generation, link)


def at_end(generation: str, step: Callable[[], None]) -> None:
    """Call *step* after the instance was shut down in this process, which started it."""
    _on_end[generation] = step


def inherit(held: object) -> None:
    """Keep *held*, which belongs to the parent process, alive and untouched."""
    _inherited.append(held)


def forget(generation: str) -> None:
    """Close all links of this process to an instance after its shutdown, and take the last step if it started here."""
    ending = [link for link in list(_open) if link.known_generation == generation]
    arrived = _arrived.pop(generation, None)
    if arrived is not None:
        ending.append(arrived)
    on_end = _on_end.pop(generation, None)
    end_each([*(link.close for link in ending), *([on_end] if on_end is not None else [])])


def end_each(ends: Iterable[Callable[[], object]]) -> None:
    """Call each of *ends*. If some fail, the others are still called, and the failures are logged last."""
    errors: list[Exception] = []
    for end in ends:
        try:
            end()
        except Exception as error:
            errors.append(error)
    for failure in errors:
        _logger.warning("an instance or a client could not be ended", exc_info=failure)


def _start_afresh() -> None:
    for link in list(_open):
        link.start_afresh()


def _close_all() -> None:
    end_each([link.close for link in list(_open)])


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(_close_all)
