"""Django REST framework: a forwarded view behind its authentication, permissions, throttling and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from django.apps import apps
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest
from django.test import AsyncClient, Client
from django.urls import path
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.schemas.openapi import SchemaGenerator
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import exception_handler

import serve_bridge as serve
from serve_bridge.adapters.bridge.forwarded_route import RouteOptions
from serve_bridge.adapters.django import forward_failed
from serve_bridge.adapters.django.checks import check_deployment
from serve_bridge.adapters.django.rest_framework import BridgeAPIView
from tests.adapters.support.django_site import MIDDLEWARE, Recording, site

URLS = __name__
CHUNKS = b"".join(b"%d\n" % number * 50_000 for number in range(3))


class Person:
    """A user that needs no database."""

    is_active = is_authenticated = True

    def __init__(self, pk: str) -> None:
        self.pk = pk


class TokenAuthentication(BaseAuthentication):  # type: ignore[misc]  # it has no types
    """Knows one token."""

    def authenticate(self, request: Any) -> Any:
        """Return the user of the token."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Token":
            return None
        if token != "good":
            raise AuthenticationFailed("no such token")
        return Person("ada"), token

    def authenticate_header(self, request: Any) -> str:
        """Make the refusal a 401."""
        return "Token"


class MayWrite(BasePermission):  # type: ignore[misc]  # it has no types
    """Looks at the parsed body."""

    def has_permission(self, request: Any, view: Any) -> bool:
        """Let in who asks for it."""
        return str(request.data.get("may")) == "yes"


class OncePerTest(SimpleRateThrottle):  # type: ignore[misc]  # it has no types
    """Lets one request through."""

    rate = "1/hour"

    def get_cache_key(self, request: Any, view: Any) -> str:
        """Count all together."""
        return "once"


class Forwarded(BridgeAPIView):
    """What the views here have in common."""

    endpoint = "rest"
    renderer_classes = (JSONRenderer,)
    authentication_classes = (TokenAuthentication,)


class Private(Forwarded):
    """For users only."""

    route_options: ClassVar[RouteOptions] = {"context": {"user": "user.pk", "token": "auth"}}
    permission_classes = (IsAuthenticated,)


class BySession(Forwarded):
    """For users of the site."""

    authentication_classes = (SessionAuthentication,)
    permission_classes = (IsAuthenticated,)
    route_options: ClassVar[RouteOptions] = {"context": {"user": "user.pk"}}


class Parsed(Forwarded):
    """Its permission parses the body first."""

    authentication_classes = ()
    permission_classes = (MayWrite,)


class Own(Forwarded):
    """Looks at the request itself, too."""

    def post(self, request: Any, **path_params: Any) -> Any:
        """Refuse what is not for the backend."""
        if request.data == {"no": True}:
            return Response({"refused": True}, status=409)
        return self.forward(request, **path_params)


def shaped(error: Exception, context: Any) -> Any:
    """Be a project's EXCEPTION_HANDLER."""
    response = exception_handler(error, context)
    if response is not None:
        response.data = {"shaped": response.data}
    return response


class Posts(Forwarded):
    """Takes one method."""

    http_method_names = ("post", "options")


class Shaped(Forwarded):
    """With the project's own errors."""

    route_options: ClassVar[RouteOptions] = {"timeout_s": 1.0}  # in which the work has begun

    def get_exception_handler(self) -> Any:
        """Return the handler."""
        return shaped


async def rest(request: Any) -> Any:
    """Do what the request asks for, and tell what came."""
    query = request.query_params
    if "fail" in query:
        raise LookupError("a secret")
    if "sleep" in query:
        await asyncio.sleep(30)
    if "stream" in query:
        return _chunks()
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind == "multipart/form-data":
        async with request.form() as form:
            fields = {name: value if isinstance(value, str) else value.size for name, value in form.items()}
        return {"form": fields}
    body = (await request.body()).decode()
    return {"method": request.method, "body": body, "params": request.path_params, "state": dict(request.state._state)}


async def _chunks() -> Any:
    for number in range(3):
        yield f"{number}\n" * 50_000


urlpatterns = [
    path("open/", Forwarded.as_view()),
    path("open/<int:number>/", Forwarded.as_view()),
    path("private/", Private.as_view()),
    path("session/", BySession.as_view()),
    path("parsed/", Parsed.as_view()),
    path("own/", Own.as_view()),
    path("shaped/", Shaped.as_view()),
    path("posts/", Posts.as_view()),
    path("once/", Forwarded.as_view(throttle_classes=[OncePerTest])),
    path("away/", Forwarded.as_view(endpoint="nowhere")),
]


def known_by_cookie(get_response: Any) -> Any:
    """Be a middleware that knows the user of a session."""

    def middleware(request: HttpRequest) -> Any:
        if "who" in request.COOKIES:
            request.user = Person(request.COOKIES["who"])  # type: ignore[assignment]  # it needs no database
        return get_response(request)

    return middleware


@pytest.fixture(autouse=True, scope="module")
def running(engine: serve.Client) -> Iterator[None]:
    """The site, in front of an endpoint of its own."""
    engine.create_backend("rest", rest)
    engine.create_endpoint("rest", backend="rest")
    installed = [*(config.name for config in apps.get_app_configs()), "django.contrib.auth", "rest_framework"]
    middleware = [MIDDLEWARE, f"{__name__}.known_by_cookie"]
    with site(engine, urls=URLS, INSTALLED_APPS=[*installed, "django.contrib.contenttypes"], MIDDLEWARE=middleware):
        yield
    engine.delete_endpoint("rest")
    engine.delete_backend("rest")


@pytest.fixture
def client() -> Client:
    """A client that is checked for CSRF, as browsers are."""
    return Client(enforce_csrf_checks=True, raise_request_exception=False)


TOKEN = {"Authorization": "Token good"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_method_is_forwarded(client: Client, method: str) -> None:
    """With path parameters, and without a CSRF token, as in REST framework."""
    answer = client.generic(method, "/open/7/").json()
    assert (answer["method"], answer["params"]) == (method, {"number": 7})


def test_the_user_goes_along(client: Client) -> None:
    """The one that REST framework has authenticated."""
    assert client.get("/private/", headers=TOKEN).json()["state"] == {"user": "ada", "token": "good"}


@pytest.mark.parametrize(
    ("headers", "detail"),
    [({}, "Authentication credentials were not provided."), ({"Authorization": "Token bad"}, "no such token")],
)
def test_a_stranger_is_refused(client: Client, headers: dict[str, str], detail: str) -> None:
    """The backend sees nothing of it."""
    answer = client.post("/private/", headers=headers)
    assert (answer.status_code, answer.json()["detail"], answer["WWW-Authenticate"]) == (401, detail, "Token")


def test_a_session_needs_a_csrf_token(client: Client) -> None:
    """As SessionAuthentication says: for unsafe requests of a user that a cookie tells."""
    assert client.get("/session/").status_code == 403
    client.cookies["who"] = "ada"
    assert client.get("/session/").json()["state"] == {"user": "ada"}
    refused = client.post("/session/", {"a": "1"}, content_type="application/json")
    assert (refused.status_code, refused.json()["detail"]) == (403, "CSRF Failed: CSRF cookie not set.")
    token = client.cookies["csrftoken"] = "a" * 32
    sent = client.post("/session/", {"a": "1"}, content_type="application/json", headers={"X-CSRFToken": token})
    assert json.loads(sent.json()["body"]) == {"a": "1"}
    assert client.post("/session/", {"a": "1", "csrfmiddlewaretoken": token}).json()["form"]["a"] == "1"


@pytest.mark.parametrize("kind", ["json", "form", "multipart", "file"])
def test_a_body_that_a_permission_has_parsed_arrives(client: Client, kind: str) -> None:
    """All of it, and a refusal is a 403."""
    if kind == "json":
        body = client.post("/parsed/", {"may": "yes"}, content_type="application/json").json()["body"]
        assert json.loads(body) == {"may": "yes"}
    elif kind == "form":
        sent = client.post("/parsed/", "may=yes&a=1", content_type="application/x-www-form-urlencoded")
        assert sent.json()["body"] == "may=yes&a=1"
    elif kind == "multipart":
        assert client.post("/parsed/", {"may": "yes", "a": "1"}).json() == {"form": {"may": "yes", "a": "1"}}
    else:
        upload = SimpleUploadedFile("a.bin", b"x" * 3_000_000)
        sent = client.post("/parsed/", {"may": "yes", "file": upload})
        assert sent.json() == {"form": {"may": "yes", "file": 3_000_000}}
    assert client.post("/parsed/", {"may": "no"}).status_code == 403


def test_a_view_may_look_first_and_forward_then(client: Client) -> None:
    """It has the parsed data, and the backend the body."""
    assert client.post("/own/", {"no": True}, content_type="application/json").status_code == 409
    assert client.post("/own/", {"a": 1}, content_type="application/json").json()["body"] == '{"a": 1}'


def test_a_throttled_request_is_a_429(client: Client) -> None:
    """And says when to come again."""
    cache.clear()
    assert client.get("/once/").status_code == 200
    answer = client.get("/once/")
    assert (answer.status_code, "Retry-After" in answer) == (429, True)
    cache.clear()


def test_an_answer_passes_as_it_is(client: Client) -> None:
    """REST framework negotiates and adds nothing, whatever the client accepts."""
    answer = client.get("/open/", headers={"Accept": "image/png"})
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
    assert ("Allow" in answer, "Vary" in answer) == (False, False)
    assert client.get("/open/?format=other").status_code == 200


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_is_streamed(client: Client, asynchronous: bool) -> None:
    """In both kinds of servers."""
    if not asynchronous:
        answer = client.get("/open/?stream")
        assert b"".join(answer.streaming_content) == CHUNKS
        return

    async def read() -> bytes:
        answer = await AsyncClient().get("/open/?stream")
        return b"".join([chunk async for chunk in answer.streaming_content])

    assert asyncio.run(read()) == CHUNKS


def test_what_fails_on_the_way_is_an_api_exception(client: Client) -> None:
    """The project's handler shapes it, and the id and the way out are in its headers."""
    received = Recording()
    forward_failed.connect(received)
    answer = client.get("/shaped/?sleep")
    forward_failed.disconnect(received)
    assert (answer.status_code, list(answer.json())) == (504, ["shaped"])
    assert (answer["X-Serve-Executed"], answer["X-Request-Id"]) == ("unknown", received.told[0]["request_id"])


def test_a_missing_endpoint_is_a_503_with_retry_after(client: Client) -> None:
    """The URL belongs to the app."""
    answer = client.get("/away/")
    assert (answer.status_code, "detail" in answer.json(), int(answer["Retry-After"]) > 0) == (503, True, True)


def test_what_user_code_raises_is_an_error_of_the_project() -> None:
    """As of any view: REST framework makes no answer of it."""
    with pytest.raises(serve.BackendError, match="LookupError: a secret"):
        Client().get("/open/?fail")


def test_other_methods_are_refused_by_rest_framework(client: Client) -> None:
    """With its words, and OPTIONS is its own."""
    answer = client.get("/posts/")
    assert (answer.status_code, answer["Allow"]) == (405, "POST, OPTIONS")
    assert client.options("/open/").json()["name"] == "Forwarded"


def test_a_schema_can_be_generated() -> None:
    """With the methods of each view."""
    urls = [path("posts/", Posts.as_view()), path("own/<int:number>/", Own.as_view())]
    schema = SchemaGenerator(title="Shop", patterns=urls).get_schema(request=None, public=True)
    methods = {name: set(found) for name, found in schema["paths"].items()}
    assert methods == {"/posts/": {"post"}, "/own/{number}/": {"get", "post", "put", "patch", "delete"}}


def test_the_checks_find_the_views() -> None:
    """A missing CSRF token is no fault of a view that REST framework checks."""
    assert [message.id for message in check_deployment(None)] == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, TypeError),
        ({"endpoint": "rest", "route_options": {"timeout": 1}}, TypeError),
        ({"endpoint": "rest", "route_options": {"timeout_s": 0}}, serve.ConfigError),
    ],
)
def test_a_wrong_view_is_found_when_it_is_made(given: dict[str, Any], error: type[Exception]) -> None:
    """Not with the first request."""
    with pytest.raises(error, match="BridgeAPIView: "):
        BridgeAPIView.as_view(**given)
