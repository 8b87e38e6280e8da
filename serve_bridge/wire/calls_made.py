"""Python calls as the calling process makes them: a handle's call, and an operation of another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from serve_bridge.errors import DeadlineExceeded, ProtocolError
from serve_bridge.wire import failure, payload
from serve_bridge.wire.address import CONTROLLER
from serve_bridge.wire.caller_end import CallerConnection, CallerStream
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.heads import INLINE_BODY_BYTES, MAX_CALL_BYTES, CallAnswer, CallHead, decoder, encode_head

decode_answer = decoder(CallAnswer)


async def read_answer(stream: CallerStream, frame: Frame) -> Any:
    """Return the result that *frame* begins, or raise what user code raised.

    Raises:
        ProtocolError: The result is larger than `MAX_CALL_BYTES`, or no result.
        SerializationError: The result cannot be rebuilt here.
    """
    head = decode_answer(frame.payload)
    data: bytes | memoryview = head.body
    if head.size != len(data):
        if head.size > MAX_CALL_BYTES or head.size < 0:
            raise ProtocolError(f"result of {head.size} bytes; the limit is {MAX_CALL_BYTES}")
        data = await stream.read(head.size)
    if head.failed:
        raise failure.unpack(data)
    return await payload.aunpack(data)


def value_of(head: bytes, read: Callable[[int], memoryview]) -> Any:
    """Return the result that *head* begins, or raise what user code raised; *read* reads a body of so many bytes.

    Raises:
        As `read_answer`, and what *read* raises.
    """
    answer = decode_answer(head)
    data: bytes | memoryview = answer.body
    if answer.size != len(data):
        if not 0 <= answer.size <= MAX_CALL_BYTES:
            raise ProtocolError(f"result of {answer.size} bytes; the limit is {MAX_CALL_BYTES}")
        data = read(answer.size)
    if answer.failed:
        raise failure.unpack(data)
    return payload.unpack(data)


async def read_items(stream: CallerStream, frame: Frame) -> AsyncIterator[Any]:
    """Iterate what a generator yields; a plain result is its only item. Raises as `read_answer` does."""
    head = decode_answer(frame.payload)
    if head.size >= 0:
        yield await read_answer(stream, frame)
        return
    async for message in stream.messages():
        if not message:
            continue  # the empty last message
        body = memoryview(message)[:-1]
        if message[-1]:
            raise failure.unpack(body)
        yield await payload.aunpack(body)


async def control(
    connection: CallerConnection, name: str, *args: Any, timeout_s: float, process: str = "", **kwargs: Any
) -> Any:
    """Call operation *name* of the process at the other end, and return its result; *process* asks for it.

    Raises:
        Lost: The connection ended first; `started` says what is known.
        DeadlineExceeded: No answer within *timeout_s*; the work is cancelled where that can be.
        Exception: What the operation raised.
    """
    segments = await payload.apack((args, kwargs))
    size = payload.size_of(segments)
    inline = size <= INLINE_BODY_BYTES
    body = payload.join(segments) if inline else b""
    head = CallHead(CONTROLLER, "", 0, timeout_s, "", name, "POST", None, False, size, body, process)
    stream = connection.open(Kind.CALL, encode_head(head), end=inline)
    try:
        async with asyncio.timeout(timeout_s) as limit:
            if not inline:
                stream.start_upload(segments)
            return await read_answer(stream, await stream.reply)
    except TimeoutError:
        if limit.expired():  # else it is what the operation raised
            raise DeadlineExceeded(f"{name}: no answer within {timeout_s:g} s", "unknown") from None
        raise
    except Rejected as rejected:
        raise ProtocolError(f"{name}: {rejected.rejection.reason} {rejected.rejection.detail}") from None
    except Aborted:
        raise Lost("unknown", f"{name} was broken off") from None
    finally:
        stream.cancel()
