"""Answers that a framework's cache has kept: they answer other requests, and have the id of each."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from django.urls import path
from django.views.decorators.cache import cache_page
from flask import Flask
from flask_caching import Cache
from starlette.responses import PlainTextResponse
from werkzeug.test import Client, TestResponse

import serve_bridge as serve
from serve_bridge.adapters.django import abridge_view, bridge_view
from serve_bridge.adapters.flask import ServeBridge
from tests.adapters.support.django_site import MIDDLEWARE

UPDATE, FETCH = (f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom"))
CONDITIONAL = "django.middleware.http.ConditionalGetMiddleware"
_numbers = itertools.count()

urlpatterns = [
    path("page/", cache_page(60)(bridge_view("numbered"))),
    path("async-page/", cache_page(60)(abridge_view("numbered"))),
    path("plain/", bridge_view("numbered")),
]
"""This module as a URLconf."""

Get = Callable[..., TestResponse]


async def numbered(request: Any) -> PlainTextResponse:
    """Answer each request differently, so that a cached answer shows."""
    number = 0 if "same" in request.query_params else next(_numbers)
    response = PlainTextResponse(f"{number}", headers={"ETag": '"1"', "Cache-Control": "max-age=60"})
    if "login" in request.query_params:
        response.headers.append("vary", "Cookie")
        response.headers.append("set-cookie", f"sid={number}; HttpOnly{request.query_params['login']}")
    return response


@pytest.fixture(scope="module")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """An instance with the backend."""
    client = serve.start(runtime="local", name="caches", http_options={"location": "NoServer"})
    client.create_backend("numbered", numbered)
    client.create_endpoint("numbered", backend="numbered")
    yield client
    client.shutdown()


@contextmanager
def django(engine: serve.Client, *middleware: str) -> Iterator[Get]:
    """Return a client of a Django site."""
    options: Any = {"ROOT_URLCONF": __name__, "MIDDLEWARE": list(middleware), "ALLOWED_HOSTS": ["*"]}
    with override_settings(SERVE_BRIDGE={"ADDRESS": engine.address}, **options):
        caches["default"].clear()
        yield Client(WSGIHandler(), use_cookies=False).get


@contextmanager
def flask(engine: serve.Client) -> Iterator[Get]:
    """Return a client of a Flask app with Flask-Caching."""
    app = Flask(__name__)
    app.config.update(SERVE_BRIDGE_ADDRESS=engine.address, CACHE_TYPE="SimpleCache")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the extension's
        cache = Cache(app)
    bridge = ServeBridge(app)
    app.add_url_rule("/page/", view_func=cache.cached(60)(bridge.view("numbered")))
    app.add_url_rule("/plain/", endpoint="plain", view_func=bridge.view("numbered"))
    yield Client(app).get
    app.extensions["serve_bridge"].close()


SITES: dict[str, tuple[Any, str, bool]] = {
    "cache_page": (lambda engine: django(engine, MIDDLEWARE), "/page/", True),
    "cache_page of an async view": (lambda engine: django(engine, MIDDLEWARE), "/async-page/", True),
    "cache_page alone": (lambda engine: django(engine), "/page/", False),
    "the cache of a site": (lambda engine: django(engine, MIDDLEWARE, UPDATE, FETCH), "/plain/", True),
    "the cache of a site alone": (lambda engine: django(engine, UPDATE, FETCH), "/plain/", False),
    "flask-caching": (flask, "/page/", True),
}


@pytest.mark.parametrize("name", SITES)
def test_a_cached_answer_does_not_repeat_an_id(engine: serve.Client, name: str) -> None:
    """It has that of its own request, or none where nothing of ours sees the answer."""
    site, where, has_own = SITES[name]
    with site(engine) as get:
        first, second = (get(where, headers={"X-Request-Id": given}) for given in ("a", "b"))
        third = get(where)
        assert first.text == second.text == third.text
        assert [answer.headers.getlist("X-Request-Id") for answer in (first, second)] == [
            ["a"],
            ["b"] if has_own else [],
        ]
        assert len(third.headers.getlist("X-Request-Id")) == has_own
        assert third.headers.get("X-Request-Id") not in ("a", "b")


@pytest.mark.parametrize("middleware", [(MIDDLEWARE, CONDITIONAL), (MIDDLEWARE, CONDITIONAL, UPDATE, FETCH)])
@pytest.mark.parametrize("where", ["/plain/?same=1", "/page/?same=1"])
def test_a_304_has_its_own_id(engine: serve.Client, middleware: tuple[str, ...], where: str) -> None:
    """Though Django makes a new response for it."""
    with django(engine, *middleware) as get:
        assert get(where, headers={"X-Request-Id": "a"}).headers.getlist("X-Request-Id") == ["a"]
        answer = get(where, headers={"X-Request-Id": "b", "If-None-Match": '"1"'})
        assert answer.status_code == 304
        assert answer.headers.getlist("X-Request-Id") == ["b"]


def test_each_answer_of_flask_has_its_id_once(engine: serve.Client) -> None:
    """Also one that no cache has kept."""
    with flask(engine) as get:
        for given in ("a", "b"):
            assert get("/plain/", headers={"X-Request-Id": given}).headers.getlist("X-Request-Id") == [given]


@pytest.mark.parametrize("attribute", ["", "; Priority=High"])
def test_a_new_session_is_not_cached(engine: serve.Client, attribute: str) -> None:
    """Django caches no answer that sets a cookie for a client without one, also if it cannot parse the cookie."""
    with django(engine, MIDDLEWARE) as get:
        first, second = (get("/page/", query_string={"login": attribute}).headers["set-cookie"] for _ in range(2))
    assert first != second
