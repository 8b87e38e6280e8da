"""Python calls at the caller's end: calls of a handle, and calls of another process's operations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from serve_bridge.errors import DeadlineExceeded, ProtocolError
from serve_bridge.wire import payload
from serve_bridge.wire.address import CONTROLLER
from serve_bridge.wire.caller_end import CallerConnection, CallerStream
from serve_bridge.wire.codecs import PICKLED, Codec
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.heads import INLINE_BODY_BYTES, MAX_CALL_BYTES, CallAnswer, CallHead, decoder, encode_head
from serve_bridge.wire.segments import join, size_of

decode_answer: Final[Callable[[Any], CallAnswer]] = decoder(CallAnswer)


async def read_answer(stream: CallerStream, frame: Frame, codec: Codec = PICKLED) -> Any:
    """Return the result that *frame* begins, read with *codec*, or raise the exception of user code.

    Raises:
        ProtocolError: The result is larger than `MAX_CALL_BYTES`, or malformed.
        SerializationError: The result cannot be rebuilt in this process.
    """
    head = decode_answer(frame.payload)
    data: bytes | memoryview = head.body
    if head.size != len(data):
        if head.size > MAX_CALL_BYTES or head.size < 0:
            raise ProtocolError(f"result of {head.size} bytes; the limit is {MAX_CALL_BYTES}")
        data = await stream.read(head.size)
    if head.failed:
        raise codec.unpack_failure(data)
    return await codec.aunpack(data)


def value_of(head: bytes, read: Callable[[int], memoryview], codec: Codec = PICKLED) -> Any:
    """Return the result that *head* begins, or raise the exception of user code; for a blocking connection.

    *read* reads a body of the given size. Raises as `read_answer` and *read* do.
    """
    answer = decode_answer(head)
    data: bytes | memoryview = answer.body
    if answer.size != len(data):
        if not 0 <= answer.size <= MAX_CALL_BYTES:
            raise ProtocolError(f"result of {answer.size} bytes; the limit is {MAX_CALL_BYTES}")
        data = read(answer.size)
    if answer.failed:
        raise codec.unpack_failure(data)
    return codec.unpack(data)


async def read_items(stream: CallerStream, frame: Frame, codec: Codec = PICKLED) -> AsyncIterator[Any]:
    """Iterate over the items of a generator. Any other result is the only item. Raises as `read_answer` does."""
    head = decode_answer(frame.payload)
    if head.size >= 0:
        yield await read_answer(stream, frame, codec)
        return
    async for message in stream.messages():
        if not message:
            continue  # the last message is empty
        body = memoryview(message)[:-1]
        if message[-1]:
            raise codec.unpack_failure(body)
        yield await codec.aunpack(body)


async def control(
    connection: CallerConnection, name: str, *args: Any, timeout_s: float, process: str = "", **kwargs: Any
) -> Any:
    """Call operation *name* of the process at the other end, and return its result.

    Args:
        connection: Connection to the process.
        name: Name of the operation.
        *args: Positional arguments of the operation.
        timeout_s: Seconds to wait for the result.
        process: Id of the calling process.
        **kwargs: Keyword arguments of the operation.

    Raises:
        Lost: The connection ended first; `started` tells whether the operation may have run.
        DeadlineExceeded: No answer came within *timeout_s*. The work is cancelled if possible.
        Exception: The exception of the operation.
    """
    segments = await payload.apack((args, kwargs))
    size = size_of(segments)
    inline = size <= INLINE_BODY_BYTES
    body = join(segments) if inline else b""
    head = CallHead(CONTROLLER, "", 0, timeout_s, "", name, "POST", None, False, size, body, process)
    stream = connection.open(Kind.CALL, encode_head(head), end=inline)
    try:
        async with asyncio.timeout(timeout_s) as limit:
            if not inline:
                stream.start_upload(segments)
            return await read_answer(stream, await stream.reply)
    except TimeoutError:
        if limit.expired():  # otherwise the operation itself has raised a TimeoutError
            raise DeadlineExceeded(f"{name}: no answer within {timeout_s:g} s", "unknown") from None
        raise
    except Rejected as rejected:
        reason, detail = rejected.rejection.reason, rejected.rejection.detail
        if reason == "not exposed":
            reason, detail = "the peer has no such operation,", "so it has an earlier version of serve_bridge"
        raise ProtocolError(f"{name}: {reason} {detail}") from None
    except Aborted:
        raise Lost("unknown", f"{name} was aborted") from None
    finally:
        stream.cancel()
