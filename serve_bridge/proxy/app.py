"""The proxy as an ASGI application: from a path to an endpoint, and what it answers by itself.

Rule 1: what a route decides is decided when the routing table arrives; a request costs one look-up.
Rule 2: its own paths are answered even when there is no room for anything else.
Rule 3: what happens to one request on its way is `forwarding`'s to say, as for the adapters.
"""

from __future__ import annotations

import itertools
import json
import logging
import secrets
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_bridge.config import HTTPOptions
from serve_bridge.errors import BackendOverloaded, ServeBridgeError
from serve_bridge.forwarded_websocket import deny, forward_websocket
from serve_bridge.forwarding import Broken, Forwarded, Refused, failed, forward
from serve_bridge.messages import TRAILERS, HttpFailure, RawPathParams, RoutingTable
from serve_bridge.proxy.buffers import Buffers, Share
from serve_bridge.proxy.route_index import Route, RouteIndex
from serve_bridge.results import Answer, problem
from serve_bridge.router import Router
from serve_bridge.wire import failure

HELD_BYTES: Final = 256 * 1024
"""A message of a backend may grow to this size when there is no room for anything more."""

_logger = logging.getLogger("serve_bridge.proxy")


class ProxyApp:
    """Answers HTTP requests by forwarding them to endpoints."""

    def __init__(self, router: Router, options: HTTPOptions, buffers: Buffers) -> None:
        self._router = router
        self._buffers = buffers
        self._timeout_s = options.request_timeout_s
        self._debug = options.debug
        self._max_message_bytes = options.max_message_bytes
        self._index = RouteIndex(())
        self._routes: tuple[Route, ...] = ()
        self._request_ids = map((secrets.token_hex(6) + "-{:x}").format, itertools.count())

    def apply(self, table: RoutingTable) -> None:
        """Route by *table* from now on."""
        self._router.apply(table)
        routes = routes_of(table)
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
                await _send_answer(send, _not_allowed(route.methods))
        elif path.startswith("/-/"):
            await _send_answer(send, self._own(path, scope["method"]))
        else:
            detail = f"no route matches {path[:200]!r}; /-/routes lists the routes"
            await _send_answer(send, problem(404, "Not Found", detail))

    async def _forward(self, route: Route, params: RawPathParams, scope: Scope, receive: Receive, send: Send) -> None:
        request = None
        try:
            request = Forwarded(route.endpoint, params, scope, timeout_s=self._timeout_s, request_ids=self._request_ids)
            if self._buffers.full:
                await _send_answer(send, self._no_room(request))
                return
            await request.receive_body(receive)
            reply = await forward(self._router, request, debug=self._debug)
        except (Refused, ServeBridgeError) as error:
            request_id = request.request_id if request is not None else None
            if isinstance(error, ServeBridgeError):
                _logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
            await _send_answer(send, failed(error, request_id))
            return
        if reply.failure is not None:
            _log_failure(reply.failure, request.request_id)
        try:
            start = {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
            if reply.trailers is not None:
                start["trailers"] = True
            await send(start)
            if reply.body is not None:
                await send({"type": "http.response.body", "body": reply.body})
                return
            async for chunk in reply.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})
            if reply.trailers is not None:
                await send({"type": TRAILERS, "headers": reply.trailers})
        except Broken as broken:
            _logger.warning("request %s: %s: %r", request.request_id, broken, broken.__cause__)
            raise
        finally:
            reply.close()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._index.match(scope["path"])
        request_id = None
        if found is None:
            answer = problem(404, "Not Found", f"no route matches {scope['path'][:200]!r}")
        elif "GET" not in found[0].methods and not found[0].mount:
            answer = _not_allowed(found[0].methods)
        else:
            route, params = found
            if route.mount:
                scope = {**scope, "root_path": route.root_path(scope["path"])}
            try:
                request = Forwarded(
                    route.endpoint, params, scope, timeout_s=self._timeout_s, request_ids=self._request_ids
                )
            except Refused as error:
                answer = failed(error, request_id)
            else:
                if not self._buffers.full:
                    await self._converse(request, scope, receive, send)
                    return
                answer = self._no_room(request)
        await receive()
        await deny(scope, send, answer)

    async def _converse(self, request: Forwarded, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a WebSocket; messages of its backend that have begun count as held."""
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
            )
        finally:
            share.give_back()

    def _no_room(self, request: Forwarded) -> Answer:
        self._buffers.refused()
        return failed(BackendOverloaded("the proxy holds too much for others"), request.request_id)

    def _own(self, path: str, method: str) -> Answer:
        """Answer one of the paths under `/-/`."""
        if path not in ("/-/routes", "/-/live", "/-/ready"):
            return problem(404, "Not Found", f"nothing is at {path[:200]!r}; see /-/routes, /-/live, /-/ready")
        if method not in ("GET", "HEAD"):
            return _not_allowed({"GET"})
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
        return [
            name
            for name, endpoint in table.endpoints.items()
            if not any(table.backends[backend].replicas for backend, weight in endpoint.weights.items() if weight)
        ]


def _log_failure(failed: HttpFailure, request_id: str) -> None:
    # No ERROR: the replica has logged one, with the exception.
    _logger.warning(failure.message_of(failed.backend) + ": %s", request_id, failed.type_name)


def _not_allowed(methods: Any) -> Answer:
    allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
    answer = problem(405, "Method Not Allowed", f"allowed: {', '.join(allowed)}")
    answer.headers.append((b"allow", ", ".join(allowed).encode()))
    return answer


async def _send_answer(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


def routes_of(table: RoutingTable) -> tuple[Route, ...]:
    """Return the HTTP routes of *table*, in the order of their creation."""
    return tuple(
        Route(name, endpoint.path, frozenset(endpoint.methods), endpoint.mount)
        for name, endpoint in table.endpoints.items()
        if endpoint.path is not None
    )


def with_middlewares(app: ASGIApp, options: HTTPOptions) -> ASGIApp:
    """Return *app* inside the Starlette middlewares of *options*; the first is outermost."""
    for middleware in reversed(options.middlewares):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app
