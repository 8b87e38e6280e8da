"""The synchronous content of a streaming response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse

from serve_bridge.user_code.streaming_response import threaded_content

SEEN_IN = "1.10.0"
"""The newest Starlette whose wrapper was read."""


async def chunks() -> AsyncIterator[str]:
    """Yield two chunks."""
    yield "a"
    yield "b"


def test_synchronous_content_is_found() -> None:
    """It is the very iterator that Starlette would iterate, not a copy."""
    content = iter(["a", "b"])
    assert threaded_content(StreamingResponse(content)) is content


def test_asynchronous_content_is_left_alone() -> None:
    """It runs on the loop."""
    assert threaded_content(StreamingResponse(chunks())) is None


def test_content_at_its_end_is_left_alone() -> None:
    """A wrapper that has ended has no frame, and nothing to iterate."""
    response = StreamingResponse(["a", "b"])

    async def exhaust() -> list[object]:
        return [chunk async for chunk in response.body_iterator]

    assert asyncio.run(exhaust()) == ["a", "b"]
    assert threaded_content(response) is None


def test_starlettes_wrapper_keeps_the_content_where_it_is_read() -> None:
    """No interface of Starlette promises that, so a release may change it."""
    found = iterate_in_threadpool.__code__.co_varnames
    assert found[:1] == ("iterator",), f"Starlette {starlette.__version__} differs from {SEEN_IN}: {found}"
