"""JSON bodies: a long one is parsed on a thread, and both ways read the same values."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from typing import Any

import pytest

from serve_bridge.request import json_body
from serve_bridge.request.json_body import LONG_JSON_BYTES, parse_json

PADDING = b" " * LONG_JSON_BYTES
VALUES: list[Any] = [None, True, 7, -(2**70), 1.5, 1e300, "é\U0001f600", [], {}, [{"a": [1, {"b": "c"}]}], {"": 0}]


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["short", "long"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_both_ways_read_the_same(value: Any, padding: bytes) -> None:
    """Python functions instead of C ones change no value and no type."""
    read = asyncio.run(parse_json(json.dumps(value).encode() + padding))
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["short", "long"])
@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"\xff", b"[" * 200_000])
def test_what_is_no_json_fails_alike(body: bytes, padding: bytes) -> None:
    """The caller tells the client."""
    with pytest.raises((ValueError, RecursionError)):
        asyncio.run(parse_json(body + padding))


def test_the_loop_runs_while_a_long_body_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parsing thread waits here for the loop, which could not set the event if it parsed itself."""
    turned = threading.Event()

    def integer(text: str) -> int:
        assert turned.wait(20)
        return int(text)

    monkeypatch.setattr(json_body, "_integer", integer)

    async def run() -> Any:
        asyncio.get_running_loop().call_soon(turned.set)
        return await parse_json(b"[1]" + PADDING)

    assert asyncio.run(run()) == [1]


@pytest.mark.parametrize("body", [b"[[1], [2]]", b"[[1], [2"], ids=["whole", "broken"])
def test_nothing_is_collected_while_a_long_body_is_parsed(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bodies overlap here: the collector is on again after both, and not before."""
    both = threading.Barrier(2)
    seen: list[bool] = []

    def integer(text: str) -> int:
        both.wait(20)
        seen.append(gc.isenabled())
        return int(text)

    monkeypatch.setattr(json_body, "_integer", integer)

    async def run() -> None:
        await asyncio.gather(parse_json(body + PADDING), parse_json(body + PADDING), return_exceptions=True)

    assert gc.isenabled()
    asyncio.run(run())
    assert (seen, gc.isenabled()) == ([False] * 4, True)


def test_a_collector_that_user_code_has_switched_off_stays_off() -> None:
    """It is the user's decision."""
    gc.disable()
    try:
        asyncio.run(parse_json(b"[1]" + PADDING))
        assert not gc.isenabled()
    finally:
        gc.enable()
