"""Starlette's `StreamingResponse`: the synchronous content below its wrapper."""

from __future__ import annotations

from collections.abc import Iterator
from types import AsyncGeneratorType
from typing import Any

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse


def threaded_content(response: StreamingResponse) -> Iterator[Any] | None:
    """Return the synchronous content of *response*, which Starlette would iterate on threads; None: it is not."""
    wrapper = response.body_iterator
    if not isinstance(wrapper, AsyncGeneratorType) or wrapper.ag_code is not iterate_in_threadpool.__code__:
        return None
    frame = wrapper.ag_frame  # None: it has been iterated to its end
    return None if frame is None else iter(frame.f_locals["iterator"])
