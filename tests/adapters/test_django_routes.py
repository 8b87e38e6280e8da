"""Django: SERVE_BRIDGE["ROUTES"], included in the project's URLs or put before them by the middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import NoReverseMatch, path, reverse
from django.views.decorators.csrf import csrf_exempt

import serve_bridge as serve
from serve_bridge.adapters.django.middleware import ServeBridgeMiddleware
from tests.adapters.support.django_site import CSRF, MIDDLEWARE, site

ROUTES = {
    "ml/<int:number>/": "echo",
    "page/": {"endpoint": "counter", "name": "taken"},
    "form/": {"endpoint": "form", "methods": ["POST"]},
    "open/": {"endpoint": "form", "csrf_exempt": True},
    "gone/": {"endpoint": "counter", "method_name": "missing"},
    "guarded/": {"endpoint": "counter", "decorators": [f"{__name__}.refusing"]},
    "reverse/": {"endpoint": "counter", "decorators": [f"{__name__}.reversing"]},
}
SLASH = "django.middleware.common.CommonMiddleware"
GUARD = f"{__name__}.Guard"


def refusing(view: Any) -> Any:
    """Decorate a view, sync or async, so that it refuses."""

    def refused(request: HttpRequest, **path_params: Any) -> HttpResponse:
        return HttpResponse("refused", status=403)

    return refused


def reversing(view: Any) -> Any:
    """Decorate a view so that it says where other pages are."""

    def where(request: HttpRequest, **path_params: Any) -> HttpResponse:
        return HttpResponse(" ".join([reverse("page"), reverse("serve_bridge:echo", args=[5])]))

    return where


class Guard:
    """Middleware that looks at views, as LoginRequiredMiddleware does."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        """Pass everything."""
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        """Refuse forwarded views with a number above 5."""
        return HttpResponse("guarded", status=401) if kwargs.get("number", 0) > 5 else None


@pytest.fixture
def ahead(engine: serve.Client) -> Iterator[Client]:
    """A client of a site whose middleware forwards the routes."""
    with site(engine, MIDDLEWARE=[MIDDLEWARE, SLASH, CSRF, GUARD], SERVE_BRIDGE={"ROUTES": ROUTES}):
        yield Client(raise_request_exception=False, enforce_csrf_checks=True)


@pytest.fixture
def included(engine: serve.Client) -> Iterator[Client]:
    """A client of a site that includes the routes below /routes/, and has no middleware of ours."""
    with site(engine, MIDDLEWARE=[CSRF], SERVE_BRIDGE={"ROUTES": ROUTES}):
        yield Client(raise_request_exception=False, enforce_csrf_checks=True)


def test_a_route_is_forwarded(ahead: Client) -> None:
    """With its parameters converted."""
    assert ahead.get("/ml/3/").json()["params"] == {"number": ["int", "3"]}


def test_a_route_comes_before_the_projects_own_url(ahead: Client) -> None:
    """As a middleware's name says."""
    assert ahead.get("/page/").content == b"call"


def test_what_is_not_named_is_the_projects(ahead: Client) -> None:
    """Nothing is forwarded by accident."""
    assert ahead.get("/echo-not-there/").content == b"the project's 404 for nobody"
    assert ahead.get("/ml/x/").content == b"the project's 404 for nobody"


def test_later_middleware_sees_the_view(ahead: Client) -> None:
    """So a login check holds."""
    assert ahead.get("/ml/6/").content == b"guarded"


def test_csrf_protection_holds_unless_a_route_says_otherwise(ahead: Client) -> None:
    """By the route's own flag."""
    assert ahead.post("/form/", {"a": "b"}).status_code == 403
    assert ahead.post("/open/", {"a": "b"}).json() == {"a": "b"}


def test_a_route_takes_the_methods_it_names(ahead: Client) -> None:
    """Django answers the others."""
    answer = ahead.get("/form/")
    assert (answer.status_code, answer["allow"]) == (405, "POST")


def test_a_route_may_be_decorated(ahead: Client) -> None:
    """By import paths, as there is no view to write `@` over."""
    assert ahead.get("/guarded/").content == b"refused"


def test_the_projects_handlers_answer_errors(ahead: Client) -> None:
    """With the id of the request."""
    answer = ahead.get("/gone/", headers={"x-request-id": "mine"})
    assert (answer.content, answer["x-request-id"]) == (b"the project's 404 for mine", "mine")


def test_reverse_knows_the_routes_and_the_projects_urls(ahead: Client) -> None:
    """While a request is answered."""
    assert ahead.get("/reverse/").content == b"/page/ /ml/5/"


def test_a_missing_slash_is_added(ahead: Client) -> None:
    """By CommonMiddleware, as for the project's own URLs."""
    answer = ahead.get("/ml/3")
    assert (answer.status_code, answer["location"]) == (301, "/ml/3/")


def test_routes_are_async_views_under_asgi(engine: serve.Client) -> None:
    """The middleware is what the handler is, so that Django adapts nothing."""
    with site(engine, SERVE_BRIDGE={"ROUTES": ROUTES}):
        answer = asyncio.run(AsyncClient().get("/ml/3/"))
    assert answer.json()["params"] == {"number": ["int", "3"]}
    assert iscoroutinefunction(answer.resolver_match.func)


@pytest.mark.parametrize("is_async", [False, True])
def test_the_stack_is_not_adapted(engine: serve.Client, is_async: bool) -> None:
    """The middleware's answer is awaited where Django awaits, and only there."""
    with site(engine, SERVE_BRIDGE={"ROUTES": ROUTES}):
        handler = ASGIHandler() if is_async else WSGIHandler()
        assert isinstance(handler._middleware_chain.__wrapped__, ServeBridgeMiddleware)
        assert iscoroutinefunction(handler._middleware_chain.__wrapped__) is is_async


def test_included_routes_are_forwarded(included: Client) -> None:
    """Below the prefix."""
    seen = included.get("/routes/ml/3/").json()
    assert (seen["params"], seen["path"]) == ({"number": ["int", "3"]}, "/routes/ml/3/")


def test_included_routes_can_be_reversed(included: Client) -> None:
    """By the route's own name, else its endpoint's."""
    assert reverse("serve_bridge:echo", args=[5]) == "/routes/ml/5/"
    assert reverse("serve_bridge:taken") == "/routes/page/"


def test_included_routes_follow_the_settings(engine: serve.Client, included: Client) -> None:
    """Both ways: to a view, and back to the URL."""
    assert reverse("serve_bridge:echo", args=[5]) == "/routes/ml/5/"
    with site(engine, SERVE_BRIDGE={"ROUTES": {"new/": "counter"}}):
        assert reverse("serve_bridge:counter") == "/routes/new/"
        assert included.get("/routes/new/").content == b"call"
        with pytest.raises(NoReverseMatch):
            reverse("serve_bridge:echo", args=[5])
    assert reverse("serve_bridge:echo", args=[5]) == "/routes/ml/5/"
    assert included.get("/routes/new/").status_code == 404


def test_included_routes_may_be_async(engine: serve.Client) -> None:
    """ASYNC says so."""
    with site(engine, SERVE_BRIDGE={"ROUTES": ROUTES, "ASYNC": True}):
        answer = asyncio.run(AsyncClient().get("/routes/ml/3/"))
        assert iscoroutinefunction(answer.resolver_match.func)


class Tenants:
    """Middleware that gives each host URLs of its own."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Choose."""
        request.urlconf = Tenants
        return self.get_response(request)

    urlpatterns = (path("tenant/", csrf_exempt(lambda request: HttpResponse("the tenant's page"))),)


def test_routes_come_before_the_urls_that_a_middleware_has_chosen(engine: serve.Client) -> None:
    """If it stands before ours."""
    with site(engine, MIDDLEWARE=[f"{__name__}.Tenants", MIDDLEWARE], SERVE_BRIDGE={"ROUTES": ROUTES}):
        assert Client().get("/tenant/").content == b"the tenant's page"
        assert Client().get("/ml/3/").json()["params"] == {"number": ["int", "3"]}
