"""One HTTP request in a replica, from its head to its answer.

Rule 1: the method's signature decides whether user code gets the request or its data. It is inspected once, at start.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

from serve_bridge.errors import ProtocolError
from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.path_params import convert
from serve_bridge.replica.executor import Executor
from serve_bridge.replica.failures import BadRequest, end_failed
from serve_bridge.replica.http_responses import extensions_of, send_result
from serve_bridge.replica.request_body import IncomingBody, Receiver
from serve_bridge.request.json_body import parse_json
from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.user_code.call_signature import NO_DATA
from serve_bridge.user_code.method import Method
from serve_bridge.wire.heads import HttpHead, decoder
from serve_bridge.wire.replica_end import ReplicaStream

_decode: Final = decoder(HttpHead)


def decode_http(data: bytes) -> HttpHead:
    """Return the head of an HTTP request.

    Raises:
        ProtocolError: *data* is not such a head, or a path parameter does not fit its type.
    """
    head = _decode(data)
    if head.path_params:
        try:
            convert(head.path_params)
        except (KeyError, ValueError):
            raise ProtocolError("a path parameter is malformed") from None
    return head


async def answer_http(executor: Executor, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
    """Run *method* for an HTTP request and send its result."""
    try:
        data = web_request(head, stream)
        kwargs: dict[str, Any] = {}
        if method.takes != "request" and method.name != "__call__":
            kwargs = dict(data.query_params)
            data = await _data_of(data)
        arguments = _bind(method, data, kwargs)
        result = await executor.run(method, *arguments)
        await send_result(executor, stream, result, head)
    except BaseException as error:
        end_failed(stream, head, error)


def web_request(head: HttpHead, stream: ReplicaStream) -> Any:
    """Return the request for user code: a `ServeRequest` from an adapter, Starlette's `Request` from the proxy."""
    scope = scope_of(head)
    scope["type"] = "http"
    scope["method"] = head.method
    scope["app"] = None  # if this key is there, Starlette answers a malformed form with 400
    if head.forwarded:
        return ServeRequest.of_scope(scope, IncomingBody(stream) if stream.has_body else head.body, stream)
    return Request(scope, Receiver(head, stream))


def scope_of(head: HttpHead) -> dict[str, Any]:
    """Return the keys of the ASGI scope of *head* which requests and WebSockets share."""
    scope = {
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "path": head.path,
        "query_string": head.query,
        "headers": head.headers,
        "client": head.client,
        "server": head.server,
        "path_params": convert(head.path_params) if head.path_params else {},
        "state": head.context or {},
        "extensions": extensions_of(head),
        BODY_LENGTH: head.body_length,
    }
    if head.scheme is not None:
        scope["scheme"] = head.scheme
    if head.raw_path is not None:
        scope["raw_path"] = head.raw_path
    if head.root_path is not None:
        scope["root_path"] = head.root_path
    return scope


async def _data_of(request: Any) -> Any:
    """Return the data for a method: the parsed JSON body, the raw body of another type, or `NO_DATA` without a body."""
    body = await request.body()
    if not body:
        return NO_DATA
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        return body
    try:
        return await parse_json(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {type(error).__name__}") from None


def _bind(method: Method, data: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        return method.arguments(data, kwargs)
    except TypeError as error:
        raise BadRequest(str(error)) from None


def mount_point(head: HttpHead) -> str:
    """Return the path below which the application is mounted.

    For a request from the proxy, this is the endpoint's route. For a route forwarded by an adapter, it is the path
    before the parameter named `path`, if the route ends with one. Otherwise it is the mount point of the web
    application.
    """
    if head.forwarded:
        below = next((text for name, _, text in head.path_params if name == "path"), None)
        if below is not None and head.path.endswith(below):
            return head.path[: len(head.path) - len(below)].removesuffix("/")
    return head.root_path or ""
