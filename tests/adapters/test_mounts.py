"""Applications behind endpoints, reached through each framework: where they are mounted, and what they see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client as DjangoClient
from django.test import override_settings
from django.urls import path, re_path
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from werkzeug.test import Client as WerkzeugClient

import serve_bridge as serve
from serve_bridge.adapters.asgi import application as asgi
from serve_bridge.adapters.django import bridge_view
from serve_bridge.adapters.flask import ServeBridge as FlaskBridge
from serve_bridge.adapters.starlette.extension import ServeBridge
from serve_bridge.adapters.wsgi import application as wsgi
from tests.adapters.support.asgi_transport import asgi_client
from tests.behaviour.support import applications, framework_applications
from tests.support.programs import run_program

Get = Callable[[str], Any]
CATCH_ALL = "/shop/<path:path>"

urlpatterns = [
    re_path(r"^shop/(?P<path>.*)$", bridge_view("seen_app")),
    path("deep/<int:tenant>/<path:path>", bridge_view("seen_app")),
    path("whole/", bridge_view("seen_app")),
    re_path(r"^flask/(?P<path>.*)$", bridge_view("flask_app")),
]
"""This module as a URLconf."""


@pytest.fixture(scope="module", autouse=True)
def instance(engine: serve.Client) -> Iterator[serve.Client]:
    """The instance of all adapters' tests, with three applications; one has a route."""
    made = {
        "seen_app": serve.asgi_app(applications.seen),
        "site_app": serve.asgi_app(framework_applications.site),
        "flask_app": serve.wsgi_app(framework_applications.flask_site),
    }
    for name, app in made.items():
        engine.create_backend(name, app)
        engine.create_endpoint(name, backend=name, route="/own/site" if name == "site_app" else None)
    yield engine
    for name in made:
        engine.delete_endpoint(name)
        engine.delete_backend(name)


@pytest.fixture
def bridge(instance: serve.Client) -> Iterator[ServeBridge]:
    """A bridge of Starlette's."""
    bridge = ServeBridge(instance.address)
    yield bridge
    bridge.close()


@contextlib.contextmanager
def _starlette(instance: serve.Client) -> Iterator[Get]:
    bridge = ServeBridge(instance.address)
    routes = [
        Route("/shop/{path:path}", bridge.forward("seen_app")),
        Route("/deep/{tenant:int}/{path:path}", bridge.forward("seen_app")),
        Route("/whole/", bridge.forward("seen_app")),
        Route("/flask/{path:path}", bridge.forward("flask_app")),
    ]
    with asgi_client(Starlette(routes=routes)) as http:
        yield http.get
    bridge.close()


@contextlib.contextmanager
def _flask(instance: serve.Client) -> Iterator[Get]:
    app, bridge = Flask(__name__), FlaskBridge()
    app.config["SERVE_BRIDGE_ADDRESS"] = instance.address
    bridge.init_app(app)
    view = bridge.view("seen_app")
    app.add_url_rule("/shop/", view_func=view, defaults={"path": ""})
    app.add_url_rule(CATCH_ALL, view_func=view)
    app.add_url_rule("/deep/<int:tenant>/<path:path>", view_func=view)
    app.add_url_rule("/whole/", view_func=view)
    app.add_url_rule("/flask/<path:path>", view_func=bridge.view("flask_app"))
    app.add_url_rule("/flask/", endpoint="flask_root", view_func=bridge.view("flask_app"), defaults={"path": ""})
    yield lambda path: _Parsed(app.test_client().get(path))
    app.extensions["serve_bridge"].close()


@contextlib.contextmanager
def _django(instance: serve.Client) -> Iterator[Get]:
    with override_settings(ROOT_URLCONF=__name__, SERVE_BRIDGE={"ADDRESS": instance.address}):
        yield DjangoClient().get


class _Parsed:
    """Werkzeug's test response, with the interface of the others."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.json = response.get_json


@pytest.fixture(params=[_starlette, _flask, _django], ids=["starlette", "flask", "django"])
def get(request: pytest.FixtureRequest, instance: serve.Client) -> Iterator[Get]:
    """Asks an app of each framework."""
    with request.param(instance) as get:
        yield get


@pytest.mark.parametrize("below", ["", "x", "x/", "a/b", "%C3%A9"])
def test_a_parameter_named_path_is_the_applications(get: Get, below: str) -> None:
    """It is mounted at what stands before it."""
    told = get(f"/shop/{below}").json()
    assert (told["root_path"], told["path"]) == ("/shop", f"/shop/{below}".replace("%C3%A9", "é"))


def test_other_parameters_belong_to_the_prefix(get: Get) -> None:
    """And are path parameters for the application too."""
    told = get("/deep/7/x/y").json()
    assert told["root_path"] == "/deep/7"
    assert told["path_params"]["tenant"] == 7


def test_without_such_a_parameter_the_application_sees_the_whole_path(get: Get) -> None:
    """It is mounted where the web application is."""
    told = get("/whole/").json()
    assert (told["root_path"], told["path"]) == ("", "/whole/")


def test_a_wsgi_application_is_mounted_alike(get: Get) -> None:
    """With SCRIPT_NAME and PATH_INFO."""
    told = get("/flask/").json()
    assert (told["root"], told["path"]) == ("/flask", "/")
    assert get("/flask/no").status_code == 404


def test_a_mount_of_starlette_is_where_the_application_is(bridge: ServeBridge) -> None:
    """A mount says it by itself."""
    with asgi_client(Starlette(routes=[Mount("/in", app=bridge.forward("seen_app"))])) as http:
        told = http.get("/in/x").json()
    assert (told["root_path"], told["path"], told["path_params"]) == ("/in", "/in/x", {})


def test_context_goes_along(bridge: ServeBridge) -> None:
    """Into the state of the request, or the environment."""
    context = {"tenant": "path_params.tenant"}
    routes = [
        Route("/{tenant}/seen/{path:path}", bridge.forward("seen_app", context=context)),
        Route("/{tenant}/flask/{path:path}", bridge.forward("flask_app", context=context)),
    ]
    with asgi_client(Starlette(routes=routes)) as http:
        assert http.get("/acme/seen/").json()["state"] == {"tenant": "acme"}
        assert http.get("/acme/flask/context").json() == {"tenant": "acme"}


def test_credentials_stay_unless_the_route_says_otherwise(bridge: ServeBridge) -> None:
    """They are the web application's own."""
    routes = [
        Route("/own/{path:path}", bridge.forward("seen_app")),
        Route("/theirs/{path:path}", bridge.forward("seen_app", credentials=True)),
    ]
    with asgi_client(Starlette(routes=routes)) as http:
        for route, expected in (("/own/", False), ("/theirs/", True)):
            headers = http.get(route, headers={"cookie": "a=1"}).json()["headers"]
            assert (["cookie", "a=1"] in headers) is expected


def test_a_websocket_reaches_an_application(bridge: ServeBridge) -> None:
    """Below the same prefix."""
    app = Starlette(routes=[WebSocketRoute("/live/{path:path}", bridge.forward("site_app"))], lifespan=bridge.lifespan)
    with TestClient(app) as client, client.websocket_connect("/live/rooms/3") as websocket:
        websocket.send_text("hello")
        assert websocket.receive_text() == "3: hello True"


@pytest.mark.parametrize("prefix", ["", "/ml"])
def test_the_instances_own_mounts_are_answered(instance: serve.Client, prefix: str) -> None:
    """By an adapter that has no routes of its own, with all their methods."""
    over_asgi, over_wsgi = asgi.ServeBridge(instance.address), wsgi.ServeBridge(instance.address)
    mounted = Starlette(routes=[Mount(prefix, app=over_asgi)])
    with asgi_client(mounted) as http:
        assert http.get(f"{prefix}/own/site/").json() == f"http://testserver{prefix}/own/site/state"
        assert http.post(f"{prefix}/own/site/upload", content=b"abc").text == "3"
        assert http.get(f"{prefix}/own/sitex").status_code == 404
    answer = WerkzeugClient(over_wsgi).get("/own/site/", base_url=f"http://testserver{prefix}")
    assert answer.json == f"http://testserver{prefix}/own/site/state"
    over_asgi.close()
    over_wsgi.close()


def test_a_middleware_forwards_to_an_application(instance: serve.Client) -> None:
    """Ahead of what is behind it."""
    bridge = asgi.ServeBridge(instance.address, routes={"/api/{path:path}": "seen_app"})
    with asgi_client(bridge.middleware(Starlette())) as http:
        assert http.get("/api/x").json()["root_path"] == "/api"
        assert http.get("/other").status_code == 404
    bridge.close()


PROJECT = """
import os, sys
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="tests", ALLOWED_HOSTS=["*"], ROOT_URLCONF="__main__", USE_TZ=True, STATIC_URL="static/",
    INSTALLED_APPS=["django.contrib." + name for name in
                    ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware"],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    MIGRATION_MODULES=dict.fromkeys(("admin", "auth", "contenttypes", "sessions")),
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {
        "context_processors": ["django.template.context_processors.request",
                               "django.contrib.auth.context_processors.auth",
                               "django.contrib.messages.context_processors.messages"]}}],
)
django.setup()
from django.contrib import admin
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls)]
call_command("migrate", run_syncdb=True, verbosity=0)
from django.contrib.auth.models import User
User.objects.create_superuser("ada", password="pw")

import httpx
import serve_bridge as serve

site = sys.modules["site_wsgi"] = type(sys)("site_wsgi")
site.application = get_wsgi_application()
client = serve.start(runtime="local", http_options={"port": 0})
serve.create_backend("site", serve.wsgi_app("site_wsgi:application"), config={"threads": 2})
serve.create_endpoint("site", backend="site", route="/back")
with httpx.Client(base_url=client.http_urls[0], trust_env=False, follow_redirects=True, timeout=30) as http:
    page = http.get("/back/admin/")
    assert page.url.path == "/back/admin/login/", page.url
    token = http.cookies["csrftoken"]
    form = {"username": "ada", "password": "pw", "csrfmiddlewaretoken": token, "next": "/back/admin/"}
    page = http.post("/back/admin/login/", data=form)
    assert page.url.path == "/back/admin/", page.url
    print(page.status_code, "ada" in page.text, 'href="/back/admin/auth/user/"' in page.text)
    page = http.get("/back/admin/auth/user/")
    print(page.status_code, "/back/admin/auth/user/1/change/" in page.text)
serve.shutdown()
"""


def test_a_whole_django_site_works_below_a_prefix(tmp_path: Any) -> None:
    """Its admin: login with CSRF protection, session, redirects, links, and its database on several threads."""
    assert run_program(PROJECT, str(tmp_path / "db.sqlite3")).splitlines() == ["200 True True", "200 True"]
