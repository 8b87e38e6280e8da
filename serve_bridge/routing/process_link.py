"""What handles need of the process that they are used in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from serve_bridge.errors import DeadlineExceeded
from serve_bridge.wire.heads import CallHead

if TYPE_CHECKING:
    from concurrent.futures import Future

    from serve_bridge.routing.blocking_calls import PendingAnswer
    from serve_bridge.routing.channel import Channel
    from serve_bridge.routing.outgoing_request import OutgoingRequest


SPARE_S: Final = 5.0
"""Seconds that a thread waits beyond the deadline, which the loop that it waits for keeps."""


class ProcessLink(Protocol):
    """What a handle needs of its client."""

    def send(self, request: OutgoingRequest) -> PendingAnswer | None:
        """Send *request* from this thread and wait for its answer; None if `run` has to."""

    def needs_whole_body(self, request: OutgoingRequest, method: str) -> bool:
        """Return whether *method* of the backend that *request* goes to needs all of its body."""

    def begin(self, work: Callable[[Channel], Any]) -> Future[Any]:
        """Start *work* on the process's own loop thread."""

    def run(self, work: Callable[[Channel], Any], timeout_s: float) -> Any:
        """Run *work* on the process's own loop thread and wait for its result."""

    def discard(self, items: AsyncGenerator[Any, None]) -> None:
        """Close *items*, which `run` has opened, without waiting."""

    async def channel(self, timeout_s: float) -> Channel:
        """Return the running loop's way into the instance, once that has its newest routing table."""

    def reference(self) -> Any:
        """Return what unpickles as a link to the same instance."""

    def submit(self, endpoint: str, shard_key: str | None, head: CallHead, data: Any, kwargs: Mapping[str, Any]) -> Any:
        """Make the call as a Ray actor call; return its ObjectRef."""


def overdue(timeout_s: float) -> DeadlineExceeded:
    """Return the error for a call that the process's own loop thread did not finish in time."""
    return DeadlineExceeded(f"no answer within {timeout_s:g} s", "unknown")
