"""The synchronous content of Starlette's `StreamingResponse`, below the wrapper that would iterate it on threads.

Rule 1: Starlette offers no way to the content, so this module reads a local variable of Starlette's wrapper. A test
names the version of Starlette which has that variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import AsyncGeneratorType
from typing import Any

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse


def threaded_content(response: StreamingResponse) -> Iterator[Any] | None:
    """Return the synchronous content of *response*; None if the content is asynchronous, or at its end."""
    wrapper = response.body_iterator
    if not isinstance(wrapper, AsyncGeneratorType) or wrapper.ag_code is not iterate_in_threadpool.__code__:
        return None
    frame = wrapper.ag_frame  # None: the content is at its end
    return None if frame is None else iter(frame.f_locals["iterator"])
