"""The proxy as an ASGI application: it finds the endpoint of a path, and answers some requests itself.

Rule 1: the index of routes is built when a routing table arrives. A request costs one look-up.
Rule 2: the proxy answers its own paths even if it refuses all other requests for lack of room.
Rule 3: `forwarding` handles a request from here on, as it does for the adapters.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from typing import Final

from starlette.types import Receive, Scope, Send

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.context import new_request_id
from serve_bridge.errors import BackendOverloaded, ServeBridgeError, failure_message
from serve_bridge.forwarding.answer import forward
from serve_bridge.forwarding.refusals import Refused, UploadBroken, failed
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.forwarding.websocket import deny, forward_websocket
from serve_bridge.http.answers import Answer, AnswerBroken, problem
from serve_bridge.http.headers import TRAILERS
from serve_bridge.http.path_params import RESERVED_PREFIX
from serve_bridge.http.request_id import request_id_of
from serve_bridge.http.route import Route
from serve_bridge.http.route_index import RouteIndex
from serve_bridge.http_server.buffers import Buffers, Share
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.refusing_app import answer_of
from serve_bridge.http_server.server_answers import send_answer
from serve_bridge.routing.router import Router
from serve_bridge.routing_table import RoutingTable
from serve_bridge.wire.heads import HttpFailure, RawPathParams

HELD_BYTES: Final = 256 * 1024
"""Upper limit for a message of a backend in bytes while the buffers are full."""

_logger = logging.getLogger("serve_bridge.proxy")
_request_ids: Final[Iterator[str]] = iter(new_request_id, "")


class ProxyApp:
    """Forwards HTTP requests and WebSockets to endpoints."""

    def __init__(self, router: Router, options: HTTPOptions, buffers: Buffers, refusals: RefusalLog) -> None:
        self._router = router
        self._buffers = buffers
        self._refusals = refusals
        self._lists_routes = options.list_routes
        self._timeout_s = options.request_timeout_s
        self._debug = options.debug
        self._max_message_bytes = options.max_message_bytes
        self._index = RouteIndex(())
        self._routes: tuple[Route, ...] = ()

    def apply(self, table: RoutingTable) -> None:
        """Use the routes of *table* from now on."""
        self._router.apply(table)
        routes = table.http_routes()
        if routes != self._routes:
            self._routes, self._index = routes, RouteIndex(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._websocket(scope, receive, send)
            return
        path = scope["path"]
        found = self._index.match(path)
        if found is not None:
            route, params = found
            method = scope["method"]
            if route.mount:
                await self._forward(route, params, {**scope, "root_path": route.root_path(path)}, receive, send)
            elif method in route.methods or (method == "HEAD" and "GET" in route.methods):
                await self._forward(route, params, scope, receive, send)
            else:
                await send_answer(send, self._refused(scope, _not_allowed(route.methods)))
        elif path.startswith(RESERVED_PREFIX):
            await send_answer(send, self._own(path, scope))
        else:
            await send_answer(send, self._refused(scope, self._no_route(path)))

    async def _forward(self, route: Route, params: RawPathParams, scope: Scope, receive: Receive, send: Send) -> None:
        request = None
        try:
            request = ForwardedRequest(
                route.endpoint, params, scope, timeout_s=self._timeout_s, request_ids=_request_ids
            )
            if self._buffers.full:
                await send_answer(send, self._no_room(request))
                return
            await request.receive_body(receive)
            if request.body is not None and self._router.needs_whole_body(request, request.method_name):
                await request.collect(self._buffers)
            answer = await forward(self._router, request, debug=self._debug, allowance=self._buffers)
        except (Refused, ServeBridgeError) as error:
            request_id = request.request_id if request is not None else request_id_of(scope["headers"])
            await send_answer(send, self._failed(error, request_id))
            return
        if answer.failure is not None:
            _log_failure(answer.failure, request.request_id)
        start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        body = answer.body
        if isinstance(body, bytes):
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        try:
            if body.trailers is not None:
                start["trailers"] = True
            await send(start)
            async for piece in body.pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
            if body.trailers is not None:
                await send({"type": TRAILERS, "headers": body.trailers})
        except AnswerBroken as broken:
            _logger.warning("request %s: %s: %r", request.request_id, broken, broken.__cause__)
            raise
        finally:
            body.close()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._index.match(scope["path"])
        if found is None:
            answer = self._refused(scope, self._no_route(scope["path"]))
        elif "GET" not in found[0].methods and not found[0].mount:
            answer = self._refused(scope, _not_allowed(found[0].methods))
        else:
            route, params = found
            if route.mount:
                scope = {**scope, "root_path": route.root_path(scope["path"])}
            try:
                request = ForwardedRequest(
                    route.endpoint, params, scope, timeout_s=self._timeout_s, request_ids=_request_ids
                )
            except Refused as error:
                answer = self._failed(error, request_id_of(scope["headers"]))
            else:
                if not self._buffers.full:
                    await self._converse(request, scope, receive, send)
                    return
                answer = self._no_room(request)
        await receive()
        await deny(scope, send, answer)

    async def _converse(self, request: ForwardedRequest, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a WebSocket. Incomplete messages of its backend count as held bytes."""
        share = Share(self._buffers)

        def hold(count: int) -> bool:
            if count > HELD_BYTES and self._buffers.full:
                self._buffers.refused()
                return False
            share.set(count)
            return True

        try:
            await forward_websocket(
                self._router,
                request,
                scope,
                receive,
                send,
                logger=_logger,
                on_failure=_log_failure,
                max_message_bytes=self._max_message_bytes,
                hold=hold,
                refuse=self._failed,
            )
        finally:
            share.give_back()

    def _refused(self, scope: Scope, refusal: Refusal) -> Answer:
        request_id = request_id_of(scope["headers"])
        self._refusals.note(refusal, request_id)
        return answer_of(refusal, request_id)

    def _failed(self, error: Refused | ServeBridgeError, request_id: str) -> Answer:
        """Return the answer to a request without an answer of user code, and log it."""
        if isinstance(error, BackendOverloaded) or (isinstance(error, ServeBridgeError) and error.http_status < 500):
            # The log of refusals limits the number of lines. A client chooses how many of these errors there are.
            self._refusals.note(Refusal(error.http_status, str(error)), request_id, level=logging.WARNING)
        elif isinstance(error, ServeBridgeError):
            _logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
        elif not isinstance(error, UploadBroken):
            self._refusals.note(Refusal(error.http_status, str(error)), request_id)
        return failed(error, request_id)

    def _no_room(self, request: ForwardedRequest) -> Answer:
        self._buffers.refused()
        error = BackendOverloaded("the proxy has reached its memory limit")
        self._refusals.note(Refusal(503, str(error)), request.request_id, level=logging.DEBUG)
        return failed(error, request.request_id)

    def _no_route(self, path: str) -> Refusal:
        listed = "; /-/routes lists the routes" if self._lists_routes else ""
        return Refusal(404, f"no route matches {path[:200]!r}{listed}")

    def _own(self, path: str, scope: Scope) -> Answer:
        """Answer a path under `/-/`."""
        known = [f"/-/{name}" for name in ("routes", "live", "ready") if name != "routes" or self._lists_routes]
        if path not in known:
            return self._refused(scope, Refusal(404, f"nothing is at {path[:200]!r}; see {', '.join(known)}"))
        if scope["method"] not in ("GET", "HEAD"):
            return self._refused(scope, _not_allowed({"GET"}))
        if path == "/-/routes":
            routes = {route.path: [route.endpoint, sorted(route.methods)] for route in self._routes}
            body = json.dumps(routes).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            return Answer(200, headers, body)
        if path == "/-/ready" and (missing := self._not_ready()):
            return problem(503, "Not Ready", f"no replica is ready for: {', '.join(missing)}")
        return Answer(200, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")], b"ok")

    def _not_ready(self) -> list[str]:
        table = self._router.table
        if table is None:
            return ["the routing table"]
        missing = [
            name
            for name, endpoint in table.endpoints.items()
            if not any(table.backends[backend].replicas for backend, weight in endpoint.weights.items() if weight)
        ]
        return [*missing, *(f"backend {name}, which is being restored" for name in table.restoring)]


def _log_failure(failed: HttpFailure, request_id: str) -> None:
    # Not an error here: the replica has logged one, with the exception.
    _logger.warning(failure_message(failed.backend) + ": %s", request_id, failed.type_name)


def _not_allowed(methods: Collection[str]) -> Refusal:
    allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
    names = ", ".join(allowed)
    return Refusal(405, f"allowed: {names}", headers=[(b"allow", names.encode())])
