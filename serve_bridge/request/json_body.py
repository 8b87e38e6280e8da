"""JSON bodies, parsed without blocking an event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from typing import Any, Final

__all__ = ["parse_json"]

LONG_JSON_BYTES: Final = 512 * 1024
"""Upper limit in bytes for a body parsed on the loop. A longer body is parsed on a thread."""


async def parse_json(body: bytes) -> Any:
    """Return the value of the JSON document *body*.

    Raises:
        ValueError: *body* is not JSON.
        RecursionError: *body* is nested too deeply.
    """
    return json.loads(body) if len(body) <= LONG_JSON_BYTES else await asyncio.to_thread(_parse_in_turns, body)


def _parse_in_turns(body: bytes) -> Any:
    """Parse *body* with callbacks in Python: other threads run between two callbacks. C code alone blocks them."""
    with _no_collection:
        return json.loads(body, parse_int=_integer, parse_float=_number, object_hook=_mapping)


class _NoCollection:
    """Switches the cyclic garbage collector off while a thread is inside.

    The lists and dicts of the parser are not garbage while it runs. The collector would visit them again and again, and
    take five times as long as the parser. Other threads do not run during its visits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._was_on = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._was_on:
                gc.enable()


_no_collection: Final = _NoCollection()


def _integer(text: str) -> int:
    return int(text)


def _number(text: str) -> float:
    return float(text)


def _mapping(value: dict[str, Any]) -> dict[str, Any]:
    return value
