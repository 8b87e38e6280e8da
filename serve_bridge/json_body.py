"""JSON bodies, parsed without holding up an event loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

__all__ = ["parse_json"]

LONG_JSON_BYTES: Final = 512 * 1024
"""A longer body is parsed on a thread."""


async def parse_json(body: bytes) -> Any:
    """Return the value that *body* holds.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(body) if len(body) <= LONG_JSON_BYTES else await asyncio.to_thread(_parse_in_turns, body)


def _parse_in_turns(body: bytes) -> Any:
    """Parse *body* by way of Python functions: between two of them other threads run, which C code never allows."""
    return json.loads(body, parse_int=_integer, parse_float=_number, object_hook=_mapping)


def _integer(text: str) -> int:
    return int(text)


def _number(text: str) -> float:
    return float(text)


def _mapping(value: dict[str, Any]) -> dict[str, Any]:
    return value
