"""One local instance, and every front end of it."""

from __future__ import annotations

from collections.abc import Iterator

import django
import httpx
import pytest
from django.conf import settings

import serve_bridge as serve
from tests.adapters.endpoints import create_all

if not settings.configured:
    settings.configure(
        SECRET_KEY="tests",
        INSTALLED_APPS=["serve_bridge.adapters.django"],
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
        DATABASES={},
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.adapters.django_urls",
        USE_TZ=True,
    )
    django.setup()

URLS = "tests.adapters.django_urls"


@pytest.fixture(scope="session")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """A local instance with the endpoints of `endpoints`."""
    client = serve.start(runtime="local", name="adapters", http_options={"port": 0})
    create_all(client)
    yield client
    client.shutdown()


@pytest.fixture(scope="session")
def flask_front(engine: serve.Client) -> Iterator[httpx.Client]:
    """A client of the Flask app."""
    from tests.adapters.fronts import flask_app

    app = flask_app(engine.address)
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://testserver") as http:
        yield http
    app.extensions["serve_bridge"].close()


@pytest.fixture(scope="session")
def django_front(engine: serve.Client) -> Iterator[httpx.Client]:
    """A client of the Django project."""
    from tests.adapters.fronts import DjangoSite

    with (
        DjangoSite(engine, URLS) as app,
        httpx.Client(transport=httpx.WSGITransport(app), base_url="http://testserver") as http,
    ):
        yield http


@pytest.fixture(scope="session")
def starlette_front(engine: serve.Client) -> Iterator[httpx.Client]:
    """A client of the Starlette app."""
    from serve_bridge.adapters.starlette import ServeBridge
    from tests.adapters.asgi_transport import asgi_client
    from tests.adapters.fronts import starlette_app

    bridge = ServeBridge(engine.address)
    with asgi_client(starlette_app(bridge)) as http:
        yield http
    bridge.close()


@pytest.fixture(scope="session")
def proxy_front(engine: serve.Client) -> Iterator[httpx.Client]:
    """A client of the standalone proxy."""
    with httpx.Client(base_url=engine.http_urls[0], trust_env=False) as http:
        yield http


@pytest.fixture(params=["django", "flask", "starlette", "proxy"])
def front(request: pytest.FixtureRequest) -> httpx.Client:
    """The same endpoints, reached through each front end in turn."""
    http: httpx.Client = request.getfixturevalue(f"{request.param}_front")
    return http


@pytest.fixture(params=["django", "flask", "starlette"])
def adapter(request: pytest.FixtureRequest) -> httpx.Client:
    """Each adapter in turn."""
    http: httpx.Client = request.getfixturevalue(f"{request.param}_front")
    return http
