"""Views that forward their requests to endpoints.

Rule 1: sync and async views differ only in one point: an async view holds no thread while it waits.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, Unpack

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import (
    BadRequest,
    ImproperlyConfigured,
    PermissionDenied,
    SuspiciousOperation,
    SynchronousOnlyOperation,
)
from django.core.handlers.asgi import ASGIRequest
from django.db import connections, transaction
from django.dispatch import Signal
from django.http import Http404, HttpRequest, HttpResponseBase
from django.http.multipartparser import MultiPartParserError

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute, RouteOptions
from serve_bridge.adapters.bridge.outcome import Outcome, request_ids
from serve_bridge.adapters.django import testcase_connections
from serve_bridge.adapters.django.current_bridge import bridge
from serve_bridge.adapters.django.requests import async_body_of, body_of, scope_of
from serve_bridge.adapters.django.responses import response_of
from serve_bridge.adapters.django.signals import forward_failed, forwarded
from serve_bridge.context import valid_request_id

View = Callable[..., HttpResponseBase]
AsyncView = Callable[..., Awaitable[HttpResponseBase]]
_View = TypeVar("_View", bound=Callable[..., Any])

REQUEST_ID: Final = "serve_bridge_request_id"
"""Attribute of a forwarded request: its id in the log. Error pages may show it."""

_STATUSES: Final = (
    ((BadRequest, SuspiciousOperation, MultiPartParserError), 400),
    (PermissionDenied, 403),
    (Http404, 404),
)
"""Exceptions to which Django answers with another status than 500."""


def bridge_view(endpoint: str, *, csrf_exempt: bool = False, **options: Unpack[RouteOptions]) -> View:
    """Return a view that forwards its requests to *endpoint*; see `RouteOptions` for the options.

    The view forwards every HTTP method. Django's decorators (`require_POST`, `login_required`) work as with any view.
    An exception of user code is raised in the view as a `BackendError`. Other failures have a status (413, 502, 503,
    504) and a problem document (RFC 9457) as body; a missing endpoint or instance is a 503. ATOMIC_REQUESTS does not
    apply: no transaction is open while a backend works.

    Args:
        endpoint: Name of the endpoint. A missing endpoint is an error of a request, not of this call.
        csrf_exempt: Accept unsafe requests without a CSRF token, for clients other than browsers.
        options: Options of the route. Paths in `context` begin with an attribute of Django's request:
            `{"user_id": "user.pk"}`.

    Raises:
        TypeError, ConfigError: An option is unknown or has a wrong value.
    """
    route = ForwardedRoute(endpoint, options)

    def view(request: HttpRequest, /, *unnamed: Any, **path_params: Any) -> HttpResponseBase:
        refuse_unnamed(unnamed)
        return response_of(ask(route, request, path_params, sender=view), route, request)

    return _finished(view, route, csrf_exempt)


def ask(route: ForwardedRoute, request: HttpRequest, path_params: Mapping[str, Any], *, sender: object) -> Outcome:
    """Forward *request*, send the signal, and return the outcome."""
    try:
        scope = scope_of(request)
        body = body_of(request, scope)
        link = bridge()
        if link.is_local:
            testcase_connections.lend()
        outcome = link.ask(route, scope, path_params, body, request)
    except Exception as error:
        forward_failed.send_robust(sender, request=request, **_news_of(error, request, route))
        raise
    signal, facts = _news(request, route, outcome)
    signal.send_robust(sender, request=request, **facts)
    return outcome


def abridge_view(endpoint: str, *, csrf_exempt: bool = False, **options: Unpack[RouteOptions]) -> AsyncView:
    """Return an `async def` view for ASGI that forwards as `bridge_view` does; it holds no thread while it waits."""
    route = ForwardedRoute(endpoint, options)
    sent = _with_facts(route)
    blocking = sync_to_async(bridge_view(endpoint, **options))

    async def view(request: HttpRequest, /, *unnamed: Any, **path_params: Any) -> HttpResponseBase:
        refuse_unnamed(unnamed)
        if not isinstance(request, ASGIRequest):
            # Under WSGI the loop ends with this call, so the body of an asynchronous answer could not be streamed.
            return await blocking(request, **path_params)
        try:
            scope = scope_of(request)
            body = await async_body_of(request, scope)
            link = bridge()
            if link.is_local:
                testcase_connections.lend()
            facts = await _facts(route, request)
            outcome = await link.ask_async(sent, scope, path_params, body, facts)
        except Exception as error:
            await forward_failed.asend_robust(view, request=request, **_news_of(error, request, route))
            raise
        signal, told = _news(request, route, outcome)
        await signal.asend_robust(view, request=request, **told)
        return response_of(outcome, route, request)

    return _finished(view, route, csrf_exempt)


def refuse_unnamed(values: tuple[Any, ...]) -> None:
    """Raise ImproperlyConfigured if a view was called with the *values* of unnamed groups."""
    if values:
        raise ImproperlyConfigured(
            f"a forwarded view was called with {len(values)} unnamed path parameters; name the groups of its re_path "
            "and of the patterns that include it, as in (?P<id>[0-9]+)"
        )


def without_transaction(view: _View) -> _View:
    """Exempt *view* from ATOMIC_REQUESTS, so that no transaction is open while a backend works; return *view*."""
    # Django refuses ATOMIC_REQUESTS for an `async def` view.
    for alias in connections if settings.configured else ():
        transaction.non_atomic_requests(alias)(view)
    return view


def _finished(view: _View, route: ForwardedRoute, csrf_exempt: bool) -> _View:
    view.__name__ = view.__qualname__ = f"serve_bridge_{route.endpoint}"
    view.forwarded_route = route  # type: ignore[attr-defined]  # for the checks; decorators copy it
    if csrf_exempt:
        view.csrf_exempt = True  # type: ignore[attr-defined]  # as Django's decorator of this name does
    return without_transaction(view)


def _news(request: HttpRequest, route: ForwardedRoute, outcome: Outcome) -> tuple[Signal, dict[str, Any]]:
    """Store the id of the request; return the signal to send, and its arguments."""
    request_id = outcome.request_id
    setattr(request, REQUEST_ID, request_id)
    told = {"endpoint": route.endpoint, "status": outcome.status, "request_id": request_id}
    if outcome.error is None:
        return forwarded, told
    return forward_failed, {**told, "error": outcome.error}


def _news_of(error: Exception, request: HttpRequest, route: ForwardedRoute) -> dict[str, Any]:
    """Store an id for *request*, which *error* ended before it was forwarded; return the arguments of the signal."""
    request_id = valid_request_id(request.headers.get("x-request-id")) or next(request_ids)
    setattr(request, REQUEST_ID, request_id)
    status = next((status for kinds, status in _STATUSES if isinstance(error, kinds)), 500)
    return {"endpoint": route.endpoint, "status": status, "request_id": request_id, "error": error}


def _with_facts(route: ForwardedRoute) -> ForwardedRoute:
    """Return a copy of *route* whose `context` takes the facts themselves, not a request."""
    sent = copy.copy(route)
    if route.context is not None:
        sent.context = _themselves
    return sent


def _themselves(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    return facts


async def _facts(route: ForwardedRoute, request: HttpRequest) -> Mapping[str, Any] | None:
    """Return the context of *request*. In a thread if necessary: user and session may be read from the database."""
    if route.context is None:
        return None
    try:
        return route.context(request)
    except SynchronousOnlyOperation:
        return await sync_to_async(route.context)(request)
