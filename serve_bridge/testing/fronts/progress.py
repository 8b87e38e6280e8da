"""The progress of requests in the backend."""

from __future__ import annotations

from collections.abc import Callable

from serve_bridge.client.handle import Handle


def at_rest(value: Callable[[], int], subject: Handle) -> int:
    """Return *value* once it no longer changes while the backend answers other requests."""
    before = -1
    while (now := value()) != before:
        before = now
        for _ in range(100):
            subject.options(method_name="produced").call("")
    return now
