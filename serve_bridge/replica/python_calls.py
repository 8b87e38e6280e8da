"""One Python call in a replica, from its arguments to its result.

Rule 1: a failure of user code is an answer: the caller gets its type and its text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from serve_bridge.errors import DeadlineExceeded, NothingStarted, ProtocolError, ReplicaDied, SerializationError
from serve_bridge.http.headers import REQUEST_ID
from serve_bridge.process.engine_threads import on_engine_thread
from serve_bridge.replica.executor import Executor, is_stream
from serve_bridge.replica.failures import is_cancelled
from serve_bridge.replica.http_responses import close_chunks
from serve_bridge.request.passed_request import web_request_in
from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.user_code.method import Method
from serve_bridge.user_code.unpicklable import unpicklable_result
from serve_bridge.wire import calls_answered
from serve_bridge.wire.codecs import PICKLED, Codec
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import CallAnswer, CallHead, encode_head
from serve_bridge.wire.plain_values import NotPlain
from serve_bridge.wire.replica_end import ReplicaStream


async def answer_call(
    executor: Executor, method: Method, head: CallHead, stream: ReplicaStream, codec: Codec = PICKLED
) -> None:
    """Run *method* for a Python call and send its result or its exception, both with *codec*."""
    try:
        data, kwargs = await calls_answered.read_arguments(stream, head, codec)
        result = await run_call(executor, method, head, data, kwargs, stream)
        if not is_stream(result):
            await _send_result(stream, result, head.backend, codec)
        elif head.generator:
            await _send_items(stream, result, head.backend, codec)
        else:  # as over Ray: without a wish for a stream, the caller gets a list
            await _send_result(stream, [item async for item in result], head.backend, codec)
    except asyncio.CancelledError:
        if is_cancelled():
            stream.abort()
            return
        calls_answered.answer_failure(stream, RuntimeError("user code raised CancelledError"), codec)
    except (Lost, ProtocolError):
        stream.abort()
    except BaseException as error:
        if stream.started:
            stream.abort()
        else:
            calls_answered.answer_failure(stream, error, codec)


async def run_call(
    executor: Executor,
    method: Method,
    head: CallHead,
    data: Any,
    kwargs: dict[str, Any],
    caller: ReplicaStream | None = None,
) -> Any:
    """Return the result of *method* for *data* and *kwargs*; *caller* is the waiting stream, if there is one.

    Raises:
        TypeError: The method does not accept these arguments.
        BaseException: User code raised it.
    """
    if method.takes == "request":
        arguments: tuple[tuple[Any, ...], dict[str, Any]] = (_python_request(head, data, kwargs, caller),), {}
    else:
        arguments = method.arguments(data, kwargs)
    try:
        return await executor.run(method, *arguments)
    except BaseException as error:
        _withdraw_proof(error)
        raise


def _withdraw_proof(error: BaseException) -> None:
    """Mark *error* as "unknown" for the outer caller: "not executed" is true of the nested call only."""
    if isinstance(error, NothingStarted | DeadlineExceeded | ReplicaDied):
        error.executed = "unknown"


def _python_request(head: CallHead, data: Any, kwargs: dict[str, Any], caller: ReplicaStream | None) -> Any:
    if (passed_on := web_request_in(data, head.request_id, caller)) is not None:
        return passed_on
    headers = [(REQUEST_ID, head.request_id.encode())]
    if head.headers:
        given = ((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in head.headers.items())
        headers = [*(pair for pair in given if pair[0] != REQUEST_ID), *headers]
    return ServeRequest(data, kwargs=kwargs, method=head.http_method, headers=headers, caller=caller)


def _not_plain(backend: str, error: NotPlain) -> SerializationError:
    return SerializationError(
        f"the result of backend {backend!r} is not plain data: {error}; a caller with the role call, whose key file is "
        "NAME.call.key, gets such a result"
    )


async def _send_result(stream: ReplicaStream, result: object, backend: str, codec: Codec) -> None:
    try:
        await calls_answered.answer(stream, result, codec)
    except SerializationError as error:
        raise await on_engine_thread(unpicklable_result, backend, result, error) from error
    except NotPlain as error:
        raise _not_plain(backend, error) from None


async def _send_items(stream: ReplicaStream, items: AsyncIterator[Any], backend: str, codec: Codec) -> None:
    stream.respond(encode_head(CallAnswer(False, -1, b"")), end=False)
    error = None
    try:
        async for item in items:
            try:
                await calls_answered.answer_item(stream, item, codec)
            except SerializationError as unfit:
                raise await on_engine_thread(unpicklable_result, backend, item, unfit) from unfit
            except NotPlain as unfit:
                raise _not_plain(backend, unfit) from None
    except (asyncio.CancelledError, Lost):
        raise
    except BaseException as raised:
        error = raised
        _withdraw_proof(error)
    finally:
        await close_chunks(items)
    await calls_answered.answer_last(stream, error, codec)
