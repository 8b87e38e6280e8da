"""The proxy as an ASGI application: from a path to an endpoint, from an HTTP request to a head, and back.

Rule 1: what a route decides is decided when the routing table arrives; a request costs one look-up.
Rule 2: of the headers named X-Serve-* two are consumed and none passes, in either direction.
Rule 3: a failure is an `application/problem+json` with a request id; what failed inside is for the log.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_bridge.config import HTTPOptions
from serve_bridge.errors import BackendOverloaded, NotConnected, ServeBridgeError
from serve_bridge.messages import (
    INLINE_BODY_BYTES,
    HeaderList,
    HttpAnswer,
    HttpHead,
    RawPathParams,
    RoutingTable,
)
from serve_bridge.proxy.route_index import Route, RouteIndex
from serve_bridge.results import Answer, problem
from serve_bridge.router import Router
from serve_bridge.wire.connection import Aborted, Lost
from serve_bridge.wire.frames import Frame, Kind

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
RETRY_AFTER_S: Final = 1

_CALL_METHOD, _SHARD_KEY, _REQUEST_ID = b"x-serve-call-method", b"x-serve-shard-key", b"x-request-id"
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect".split()
)
_VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

_logger = logging.getLogger("serve_bridge.proxy")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(HttpAnswer).decode


class BadControlHeader(Exception):  # noqa: N818 - an answer
    """A control header is empty, repeated or not text."""


class Broken(ConnectionError):
    """The answer ended early; the connection must not look as if it had not."""


class ProxyApp:
    """Answers HTTP requests by forwarding them to endpoints."""

    def __init__(self, router: Router, options: HTTPOptions) -> None:
        self._router = router
        self._timeout_s = options.request_timeout_s
        self._debug = options.debug
        self._index = RouteIndex(())
        self._routes: tuple[Route, ...] = ()
        self._request_ids = map((secrets.token_hex(6) + "-{:x}").format, itertools.count())

    def apply(self, table: RoutingTable) -> None:
        """Route by *table* from now on."""
        self._router.apply(table)
        routes = tuple(
            Route(name, endpoint.path, frozenset(endpoint.methods))
            for name, endpoint in table.endpoints.items()
            if endpoint.path is not None
        )
        if routes != self._routes:
            self._routes, self._index = routes, RouteIndex(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _refuse_websocket(receive, send)
            return
        path = scope["path"]
        found = self._index.match(path)
        if found is not None:
            route, params = found
            method = scope["method"]
            if method in route.methods or (method == "HEAD" and "GET" in route.methods):
                await self._forward(route, params, scope, receive, send)
            else:
                await _send_answer(send, _not_allowed(route.methods))
        elif path.startswith("/-/"):
            await _send_answer(send, self._own(path, scope["method"]))
        else:
            detail = f"no route matches {path[:200]!r}; /-/routes lists the routes"
            await _send_answer(send, problem(404, "Not Found", detail))

    async def _forward(
        self, route: Route, params: RawPathParams, scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = None
        try:
            request = _Forwarded(route.endpoint, params, scope, receive, self._timeout_s, self._request_ids)
            await request.read_short_body()
            stream, frame = await self._router.route(request)
            answer = self._answer(request, frame)
            started = False
            try:
                started = True
                await send(
                    {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
                )
                if frame.flags & 1:
                    await send({"type": "http.response.body", "body": answer.body})
                    return
                async for chunk in stream.chunks():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body"})
            except (Lost, Aborted) as error:
                raise Broken(f"request {request.request_id}: the answer broke off") from error
            finally:
                if started:
                    stream.cancel()
        except BadControlHeader as error:
            await _send_answer(send, problem(400, "Bad Request", str(error)))
        except ServeBridgeError as error:
            request_id = request.request_id if request is not None else None
            _logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
            await _send_answer(send, _failed(error, request_id))

    def _answer(self, request: _Forwarded, frame: Frame) -> HttpAnswer:
        answer = _decode(frame.payload)
        headers = answer.headers
        for name, _ in headers:
            if name[:8] == b"x-serve-" or name == _REQUEST_ID:
                headers = [pair for pair in headers if pair[0][:8] != b"x-serve-" and pair[0] != _REQUEST_ID]
                break
        headers.append((_REQUEST_ID, request.request_id.encode()))
        if answer.failure:
            _logger.error("request %s: the backend failed with status %d", request.request_id, answer.status)
            if self._debug:
                shown = problem(
                    answer.status, "Error", request_id=request.request_id, traceback=answer.failure
                )
                return HttpAnswer(shown.status, [*shown.headers, headers[-1]], shown.body)
        return HttpAnswer(answer.status, headers, answer.body)

    def _own(self, path: str, method: str) -> Answer:
        """Answer one of the paths under `/-/`."""
        if path not in ("/-/routes", "/-/live", "/-/ready"):
            return problem(
                404, "Not Found", f"nothing is at {path[:200]!r}; see /-/routes, /-/live, /-/ready"
            )
        if method not in ("GET", "HEAD"):
            return _not_allowed({"GET"})
        if path == "/-/routes":
            routes = {route.path: [route.endpoint, sorted(route.methods)] for route in self._routes}
            body = json.dumps(routes).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            return Answer(200, headers, body)
        if path == "/-/ready" and (missing := self._not_ready()):
            return problem(503, "Not Ready", f"no replica is ready for: {', '.join(missing)}")
        return Answer(
            200, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")], b"ok"
        )

    def _not_ready(self) -> list[str]:
        table = self._router.table
        if table is None:
            return ["the routing table"]
        return [
            name
            for name, endpoint in table.endpoints.items()
            if not any(
                table.backends[backend].replicas for backend, weight in endpoint.weights.items() if weight
            )
        ]


class _Forwarded:
    """One HTTP request on its way to a replica (a `router.Outgoing`)."""

    __slots__ = (
        "_call_method",
        "_headers",
        "_inline",
        "_params",
        "_receive",
        "_scope",
        "body",
        "endpoint",
        "idempotent",
        "request_id",
        "shard_key",
        "timeout_s",
    )
    kind = Kind.REQUEST

    def __init__(
        self,
        endpoint: str,
        params: RawPathParams,
        scope: Scope,
        receive: Receive,
        timeout_s: float,
        request_ids: map[str],
    ) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self.body: AsyncIterator[bytes] | None = None
        self._inline = b""
        self._params = params
        self._scope = scope
        self._receive = receive
        self._headers, control = _split(scope["headers"])
        given = control.get(_REQUEST_ID, b"")
        self.request_id = given.decode() if _VALID_REQUEST_ID.fullmatch(given) else next(request_ids)
        self.shard_key = _text(control, _SHARD_KEY)
        self._call_method = _text(control, _CALL_METHOD) or ""
        self.idempotent = scope["method"] in IDEMPOTENT and not self._call_method

    async def read_short_body(self) -> None:
        """Take the body into the head if it is short; else leave it to be streamed."""
        if not _has_body(self._headers, self._scope):
            return
        message = await self._receive()
        chunk = message.get("body", b"")
        if not message.get("more_body", False) and len(chunk) <= INLINE_BODY_BYTES:
            self._inline = chunk
        else:
            self.body = self._stream(message)

    async def _stream(self, message: Mapping[str, Any]) -> AsyncIterator[bytes]:
        while True:
            if message["type"] == "http.disconnect":
                raise Lost("unknown", "the client left during its upload")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return
            message = await self._receive()

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return the head; see `router.Outgoing`."""
        scope = self._scope
        head = HttpHead(
            self.endpoint,
            backend,
            version,
            timeout_s,
            self.request_id,
            self._call_method,
            scope["method"],
            scope["scheme"],
            scope["http_version"],
            scope["path"],
            scope.get("raw_path") or b"",
            scope.get("root_path", ""),
            scope["query_string"],
            self._headers,
            self._params,
            scope["client"],
            scope["server"],
            False,
            None,
            self._inline,
        )
        return _encode(head)


def _split(headers: HeaderList) -> tuple[HeaderList, dict[bytes, bytes]]:
    """Return the headers that pass, and those that the proxy consumes."""
    passing: HeaderList = []
    control: dict[bytes, bytes] = {}
    for pair in headers:
        name = pair[0]
        if name[:2] == b"x-":
            if name[:8] == b"x-serve-":
                if name in control:
                    raise BadControlHeader(f"the header {name.decode()} is there twice")
                control[name] = pair[1]
                continue
            if name == _REQUEST_ID:
                control.setdefault(name, pair[1])
                continue
        if name not in _HOP_BY_HOP:
            passing.append(pair)
    return passing, control


def _text(control: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = control.get(name)
    if value is None:
        return None
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise BadControlHeader(f"the header {name.decode()} must be text and not empty")
    return text


def _has_body(headers: HeaderList, scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return bool(value != b"0")
        if name == b"transfer-encoding":
            return True
    return False


def _failed(error: ServeBridgeError, request_id: str | None) -> Answer:
    """Return the answer for a request that got none from user code (RELIABILITY.md §1)."""
    answer = problem(error.http_status, _TITLES.get(error.http_status, "Error"), _detail(error), request_id)
    if request_id is not None:
        answer.headers.append((_REQUEST_ID, request_id.encode()))
    executed = getattr(error, "executed", None)
    if executed is not None:
        answer.headers.append((b"x-serve-executed", executed.encode()))
    if isinstance(error, BackendOverloaded | NotConnected):
        answer.headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return answer


_TITLES: Final = {
    404: "Not Found",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def _detail(error: ServeBridgeError) -> str | None:
    # Of our own errors only these say nothing about the inside.
    return "the server is too busy, or starting" if isinstance(error, BackendOverloaded) else None


def _not_allowed(methods: Any) -> Answer:
    allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
    answer = problem(405, "Method Not Allowed", f"allowed: {', '.join(allowed)}")
    answer.headers.append((b"allow", ", ".join(allowed).encode()))
    return answer


async def _send_answer(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _refuse_websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1000})


def with_middlewares(app: ASGIApp, options: HTTPOptions) -> ASGIApp:
    """Return *app* inside the Starlette middlewares of *options*; the first is outermost."""
    for middleware in reversed(options.middlewares):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app
