"""A Django site as a backend, under ASGI and WSGI, behind every front."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.adapters import RouteSpec
from tests.adapters.support.all_fronts import FRONTS, front

SITES = {"asgi": serve.asgi_app, "wsgi": serve.wsgi_app}


@pytest.fixture(scope="module")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """An instance with the site, under both interfaces."""
    client = serve.start(runtime="local", name="django-backends", http_options={"port": 0})
    for name, wrapped in SITES.items():
        attribute = "asgi_application" if name == "asgi" else "application"
        client.create_backend(name, wrapped(f"tests.behaviour.support.django_site:{attribute}"))
        client.create_endpoint(name, backend=name, route=f"/{name}")
    yield client
    client.shutdown()


@pytest.fixture(scope="module", params=FRONTS)
def http(request: pytest.FixtureRequest, engine: serve.Client) -> Iterator[httpx.Client]:
    """A client of each front in turn."""
    routes = [RouteSpec(f"/{name}/{{path:path}}", name, ("GET",), {"credentials": True}) for name in SITES]
    with front(request.param, engine, routes) as http:
        yield http


@pytest.mark.parametrize("site", SITES)
def test_a_login_gets_both_cookies(http: httpx.Client, site: str) -> None:
    """Django's ASGI handler writes the names of headers with capitals."""
    http.cookies.clear()
    answer = http.get(f"/{site}/login/")
    assert sorted(each.partition("=")[0] for each in answer.headers.get_list("set-cookie")) == [
        "csrftoken",
        "sessionid",
    ]
    assert http.get(f"/{site}/login/").json() == {"sessionid": "s", "csrftoken": "c"}
    assert len(answer.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize("site", SITES)
def test_head_has_the_length_of_get(http: httpx.Client, site: str) -> None:
    """Or none, where only the body says it."""
    http.cookies.clear()
    length = http.head(f"/{site}/login/").headers.get("content-length")
    assert length in (None, http.get(f"/{site}/login/").headers.get("content-length"))
