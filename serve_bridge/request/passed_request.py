"""A web request as the data of a Python call."""

from __future__ import annotations

from starlette.requests import Request

from serve_bridge.http.headers import REQUEST_ID
from serve_bridge.request.body_channel import Caller
from serve_bridge.request.frozen_request import FrozenRequest
from serve_bridge.request.serve_request import ServeRequest


def web_request_in(data: object, request_id: str, caller: Caller | None) -> Request | ServeRequest | None:
    """Return *data* as a web request with the id of the call, if a caller passed a web request on; otherwise None.

    A request from the proxy becomes Starlette's `Request`, a request from an adapter a `ServeRequest`.
    """
    if type(data) is FrozenRequest:
        return data.thaw(request_id)
    if type(data) is ServeRequest and data._body is not None:
        headers = [pair for pair in data._scope["headers"] if pair[0] != REQUEST_ID]
        scope = {**data._scope, "headers": [*headers, (REQUEST_ID, request_id.encode())]}
        return ServeRequest.of_scope(scope, data._body, caller)
    return None
