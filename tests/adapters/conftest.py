"""Two local instances for what is special to each adapter, and the settings of a Django project."""

from __future__ import annotations

from collections.abc import Iterator

import django
import pytest
from django.conf import settings

import serve_bridge as serve
from serve_bridge.adapters.asgi.application import ServeBridge
from tests.adapters.support.asgi_backends import begun, cancelled
from tests.adapters.support.endpoints import create_all

if not settings.configured:
    settings.configure(
        SECRET_KEY="tests",
        INSTALLED_APPS=["serve_bridge.adapters.django"],
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
        DATABASES={},
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.adapters.support.django_urls",
        USE_TZ=True,
    )
    django.setup()


@pytest.fixture(scope="session")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """A local instance with the endpoints of `endpoints`."""
    client = serve.start(runtime="local", name="adapters", http_options={"port": 0})
    create_all(client)
    yield client
    client.shutdown()


@pytest.fixture(scope="session")
def asgi_engine(nothing_left: None) -> Iterator[serve.Client]:
    """A local instance with the backends of `asgi_backends`, as an adapter deploys them."""
    owner = ServeBridge(runtime="local", backends=["tests.adapters.support.asgi_backends"])
    yield owner.client
    owner.close()


@pytest.fixture
def signals() -> None:
    """What those backends tell is forgotten before the test."""
    begun.clear()
    cancelled.clear()
