"""The link of a process to an instance, as handles and adapters use it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from serve_bridge.errors import DeadlineExceeded, NotAllowed
from serve_bridge.wire.codecs import Codec
from serve_bridge.wire.heads import CallHead
from serve_bridge.wire.keys import Role

if TYPE_CHECKING:
    from concurrent.futures import Future

    from serve_bridge.routing.blocking_calls import PendingAnswer
    from serve_bridge.routing.channel import Channel
    from serve_bridge.routing.outgoing_request import OutgoingRequest


SPARE_S: Final = 5.0
"""Seconds for which a thread waits beyond the deadline of a request. The loop thread keeps the deadline itself."""


class ProcessLink(Protocol):
    """The link of one process to one instance, for callers in any thread and on any loop."""

    @property
    def codec(self) -> Codec:
        """How arguments and results become bytes."""

    def needs_role(self, role: Role, what: str) -> NotAllowed:
        """Return the error for *what*, which this process may not do because it needs *role*."""

    def send(self, request: OutgoingRequest) -> PendingAnswer | None:
        """Send *request* from this thread and wait for its answer; None: the caller must use `run`."""

    def needs_whole_body(self, request: OutgoingRequest, method: str) -> bool:
        """Return whether *method* of the backend for *request* needs the whole body."""

    def begin(self, work: Callable[[Channel], Any]) -> Future[Any]:
        """Start *work* on the process's own loop thread."""

    def run(self, work: Callable[[Channel], Any], timeout_s: float) -> Any:
        """Run *work* on the process's own loop thread and wait for its result."""

    def discard(self, items: AsyncGenerator[Any, None]) -> None:
        """Close *items*, which `run` has opened, without a wait."""

    async def channel(self, timeout_s: float) -> Channel:
        """Return the channel of the running loop, once it has the newest routing table."""

    def reference(self) -> Any:
        """Return an object that unpickles as a link to the same instance."""

    def submit(self, endpoint: str, shard_key: str | None, head: CallHead, data: Any, kwargs: Mapping[str, Any]) -> Any:
        """Make the call as a Ray actor call; return its ObjectRef."""


def overdue(timeout_s: float) -> DeadlineExceeded:
    """Return the error for a call that the loop thread did not finish in time."""
    return DeadlineExceeded(f"no answer within {timeout_s:g} s", "unknown")
