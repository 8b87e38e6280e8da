"""Python calls on a connection: what both a handle and a management call do with the answer.

Rule 1: a loop packs and unpacks what is soon done; what takes long is done on a thread, while others are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from serve_bridge.errors import DeadlineExceeded, ProtocolError
from serve_bridge.process.daemon_threads import on_engine_thread
from serve_bridge.wire import failure, payload
from serve_bridge.wire.address import CONTROLLER
from serve_bridge.wire.caller_end import CallerConnection, CallerStream
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.heads import INLINE_BODY_BYTES, CallAnswer, CallHead, decoder
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.transport import UNCOPIED_BYTES

MAX_CALL_BYTES: Final = 2 << 30
"""Arguments or a result above this size are refused before anything is kept of them."""

encode_call = msgspec.msgpack.Encoder().encode
decode_call = decoder(CallHead)
encode_answer = msgspec.msgpack.Encoder().encode
decode_answer = decoder(CallAnswer)


async def pack(value: object, timeout_s: float | None = None) -> list[payload.Segment]:
    """Return *value* packed; it must not change meanwhile.

    Raises:
        SerializationError: It has no pickled form.
        DeadlineExceeded: It takes longer than *timeout_s* seconds; None: there is no limit.
    """
    try:
        return payload.pack(value, payload.LONG_PICKLE_BYTES)
    except payload.TooLong:
        pass
    try:
        async with asyncio.timeout(timeout_s):
            return await on_engine_thread(payload.pack, value)
    except TimeoutError:
        raise DeadlineExceeded("the time was up before the arguments were packed", "no") from None


async def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Return the value in *data*.

    Raises:
        SerializationError: It cannot be rebuilt here.
    """
    return await on_engine_thread(payload.unpack, data) if payload.is_long(data) else payload.unpack(data)


async def read_arguments(stream: ReplicaStream, head: CallHead) -> Any:
    """Return the arguments of the call that *head* opened, reading its body if it has one.

    Raises:
        ProtocolError: The body is larger than `MAX_CALL_BYTES` or not what the head said.
        SerializationError: They cannot be rebuilt here.
    """
    if head.size == len(head.body):
        return payload.unpack(head.body)
    if not 0 <= head.size <= MAX_CALL_BYTES:
        raise ProtocolError(f"arguments of {head.size} bytes; the limit is {MAX_CALL_BYTES}")
    stream.accept_body()
    return await unpack(await stream.read(head.size))


async def answer(stream: ReplicaStream, value: object) -> None:
    """Send *value* as the result.

    Raises:
        SerializationError: *value* has no pickled form; nothing was sent.
    """
    segments = await pack(value)
    size = payload.size_of(segments)
    if size <= INLINE_BODY_BYTES:
        stream.respond(encode_answer(CallAnswer(False, size, payload.join(segments))), end=True)
        return
    stream.respond(encode_answer(CallAnswer(False, size, b"")), end=False)
    await stream.send_segments(segments, end=True)


def answer_failure(stream: ReplicaStream, error: BaseException) -> None:
    """Send *error* as the result."""
    data = failure.pack(error)
    if len(data) > INLINE_BODY_BYTES:  # a traceback or an argument of enormous length
        data = failure.pack_short(error)
    stream.respond(encode_answer(CallAnswer(True, len(data), data)), end=True)


async def answer_item(stream: ReplicaStream, item: object) -> None:
    """Send the next item of a generator, whose head has been sent."""
    segments = [*await pack(item), b"\0"]  # last, so that buffers stay aligned
    if payload.size_of(segments) < UNCOPIED_BYTES:
        segments = [payload.join(segments)]  # one frame
    await stream.send_segments(segments, end=False)


async def answer_last(stream: ReplicaStream, error: BaseException | None) -> None:
    """End a generator's items, with *error* if it raised."""
    await stream.send_segments([failure.pack(error), b"\1"] if error is not None else [], end=True)


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
    return await unpack(data)


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
        yield await unpack(body)


async def control(
    connection: CallerConnection, name: str, *args: Any, timeout_s: float, process: str = "", **kwargs: Any
) -> Any:
    """Call operation *name* of the process at the other end, and return its result; *process* asks for it.

    Raises:
        Lost: The connection ended first; `started` says what is known.
        DeadlineExceeded: No answer within *timeout_s*; the work is cancelled where that can be.
        Exception: What the operation raised.
    """
    segments = await pack((args, kwargs))
    size = payload.size_of(segments)
    inline = size <= INLINE_BODY_BYTES
    body = payload.join(segments) if inline else b""
    head = CallHead(CONTROLLER, "", 0, timeout_s, "", name, "POST", None, False, size, body, process)
    stream = connection.open(Kind.CALL, encode_call(head), end=inline)
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


async def answer_control(stream: ReplicaStream, head: CallHead, operation: Callable[..., Awaitable[Any]]) -> None:
    """Run *operation* with the arguments of the call that *head* opened, and send its result."""
    try:
        args, kwargs = await read_arguments(stream, head)
        await answer(stream, await operation(*args, **kwargs))
    except asyncio.CancelledError:
        stream.abort()
        raise
    except BaseException as error:  # SystemExit, which a user's hook may raise, would end the loop
        if stream.started:
            stream.abort()
        else:
            answer_failure(stream, error)
