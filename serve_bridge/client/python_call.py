"""One call of a backend from Python: its request for the router, and the reading of its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from random import random
from typing import TYPE_CHECKING, Any, Final

from serve_bridge.client.call_options import CallOptions
from serve_bridge.errors import ReplicaDied
from serve_bridge.http.methods import IDEMPOTENT
from serve_bridge.routing.process_link import ProcessLink
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.endings import Aborted, Lost
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.heads import CallHead, encode_head
from serve_bridge.wire.segments import Segment

if TYPE_CHECKING:
    from serve_bridge.routing.channel import Channel


class PythonCall:
    """One Python call; the router sends it to a replica (`OutgoingRequest`)."""

    __slots__ = ("_head", "body", "draw", "endpoint", "idempotent", "limit_s", "retried", "shard_key", "timeout_s")
    kind = Kind.CALL

    def __init__(self, head: CallHead, options: CallOptions, timeout_s: float, body: Sequence[Segment] | None) -> None:
        self._head = head
        self.endpoint: str = head.endpoint
        self.shard_key: str | None = options.shard_key
        self.timeout_s: float = timeout_s
        self.limit_s: float = head.timeout_s
        # The default GET is no promise: only a caller who says so makes a call repeatable.
        self.idempotent: bool = options.http_method in IDEMPOTENT and options.method_name is None
        self.draw: float = random()
        self.retried: bool = False
        self.body: Sequence[Segment] | None = body

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return the head; see `OutgoingRequest`."""
        h = self._head
        return encode_head(
            CallHead(
                h.endpoint,
                backend,
                version,
                timeout_s,
                h.request_id,
                h.call_method,
                h.http_method,
                h.headers,
                h.generator,
                h.size,
                h.body,
            )
        )


async def answer_of(channel: Channel, request: PythonCall) -> Any:
    """Send *request* and return its result, on the loop of *channel*."""
    stream, frame = await channel.router.route(request)
    try:
        return await calls.read_answer(stream, frame, channel.codec)
    except (Lost, Aborted):
        raise ReplicaDied("the replica died while it answered", "unknown") from None
    finally:
        stream.cancel()


async def items_of(channel: Channel, request: PythonCall) -> AsyncGenerator[Any, None]:
    """Send *request* to a generator backend and yield its items, on the loop of *channel*."""
    stream, frame = await channel.router.route(request)
    try:
        async for item in calls.read_items(stream, frame, channel.codec):
            yield item
    except (Lost, Aborted):
        raise ReplicaDied("the replica died while it answered", "unknown") from None
    finally:
        stream.cancel()


async def opened_items(channel: Channel, request: PythonCall) -> AsyncGenerator[Any, None]:
    """Return the items of *request*, which another thread then reads one by one."""
    return items_of(channel, request)


_END: Final = object()


def iterated(link: ProcessLink, items: AsyncGenerator[Any, None], timeout_s: float) -> Iterator[Any]:
    """Yield *items*, which `opened_items` returned on the loop of *link*, in the calling thread."""

    async def step() -> Any:
        return await anext(items, _END)

    try:
        while (item := link.run(lambda _: step(), timeout_s)) is not _END:
            yield item
    finally:
        link.discard(items)
