"""Python calls at the called end: reading the arguments, and sending the result or the failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.codecs import PICKLED, Codec
from serve_bridge.wire.frame_writer import UNCOPIED_BYTES
from serve_bridge.wire.heads import INLINE_BODY_BYTES, MAX_CALL_BYTES, CallAnswer, CallHead, decoder, encode_head
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.segments import join, size_of

decode_call = decoder(CallHead)


async def read_arguments(stream: ReplicaStream, head: CallHead, codec: Codec = PICKLED) -> Any:
    """Return the arguments of the call with *head*, read with *codec*. Long arguments are read from the body.

    Raises:
        ProtocolError: The body is larger than `MAX_CALL_BYTES`, or has another size than in the head.
        SerializationError: The arguments cannot be rebuilt in this process.
    """
    if head.size == len(head.body):
        return codec.unpack(head.body)
    if not 0 <= head.size <= MAX_CALL_BYTES:
        raise ProtocolError(f"arguments of {head.size} bytes; the limit is {MAX_CALL_BYTES}")
    stream.accept_body()
    return await codec.aunpack(await stream.read(head.size))


async def answer(stream: ReplicaStream, value: object, codec: Codec = PICKLED) -> None:
    """Send *value* as the result.

    Raises:
        SerializationError: *value* has no pickled form. Nothing was sent.
        NotPlain: *value* is not plain data, and *codec* needs that. Nothing was sent.
    """
    segments = await codec.apack(value)
    size = size_of(segments)
    if size <= INLINE_BODY_BYTES:
        stream.respond(encode_head(CallAnswer(False, size, join(segments))), end=True)
        return
    stream.respond(encode_head(CallAnswer(False, size, b"")), end=False)
    await stream.send_segments(segments, end=True)


def answer_failure(stream: ReplicaStream, error: BaseException, codec: Codec = PICKLED) -> None:
    """Send *error* as the result."""
    data = codec.pack_failure(error)
    if len(data) > INLINE_BODY_BYTES:  # the traceback or an argument of the exception is very long
        data = codec.shorten_failure(error)
    stream.respond(encode_head(CallAnswer(True, len(data), data)), end=True)


async def answer_item(stream: ReplicaStream, item: object, codec: Codec = PICKLED) -> None:
    """Send the next *item* of a generator. The head of the answer was sent before."""
    segments = [*await codec.apack(item), b"\0"]  # the marker comes last, so that buffers stay aligned
    if size_of(segments) < UNCOPIED_BYTES:
        segments = [join(segments)]  # one frame
    await stream.send_segments(segments, end=False)


async def answer_last(stream: ReplicaStream, error: BaseException | None, codec: Codec = PICKLED) -> None:
    """End the items of a generator, with *error* if the generator raised it."""
    await stream.send_segments([codec.pack_failure(error), b"\1"] if error is not None else [], end=True)


async def answer_control(stream: ReplicaStream, head: CallHead, operation: Callable[..., Awaitable[Any]]) -> None:
    """Run *operation* with the arguments of the call with *head*, and send its result."""
    try:
        args, kwargs = await read_arguments(stream, head)
        await answer(stream, await operation(*args, **kwargs))
    except asyncio.CancelledError:
        stream.abort()
        raise
    except BaseException as error:  # a user's hook may raise SystemExit, which would end the loop
        if stream.started:
            stream.abort()
        else:
            answer_failure(stream, error)
