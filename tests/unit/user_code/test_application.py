"""Applications as values: what they travel as, and where they are mounted."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import serve_bridge as serve
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.deployment.collecting import declared_in
from serve_bridge.errors import ConfigError
from serve_bridge.replica.http_requests import mount_point
from serve_bridge.replica.wsgi_environ import environ_of
from serve_bridge.specs import BackendSpec, DeclaredEndpoint
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.frozen_code import FrozenCode, freeze_code
from serve_bridge.wire.heads import HttpHead
from serve_bridge.wire.opaque import Opaque
from tests.support.projects import Project, project_in

PATHS = st.text(st.sampled_from("ab/é."), max_size=6)


class Counting:
    """An application that is an object."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer nothing."""


counting = Counting()


@pytest.fixture
def project(tmp_path: Any) -> Any:
    """A project in which an application is."""
    with project_in(tmp_path) as project:
        project.write("shop.web", "class App:\n    def __call__(self, environ, start): ...\napp = App()\n")
        yield project


def test_an_application_in_a_module_travels_as_its_path() -> None:
    """So the very object that replicas import answers."""
    thawed = pickle.loads(pickle.dumps(serve.asgi_app(counting)))
    assert thawed.path == f"{__name__}:counting"
    assert thawed.load() is counting


def test_another_one_travels_by_value() -> None:
    """As it is at that moment."""
    own = Counting()
    own.calls = 3
    wrapped = serve.asgi_app(own)
    assert wrapped.path is None
    assert pickle.loads(pickle.dumps(wrapped)).load().calls == 3


@pytest.mark.parametrize("by_path", [True, False])
def test_the_directory_of_its_module_goes_along(project: Project, by_path: bool) -> None:
    """However it was named."""
    app = "shop.web:app" if by_path else project.load("shop.web").app
    frozen = FrozenCode.of(freeze_code(serve.wsgi_app(app), (), {}))
    assert frozen.search_path == (str(project.directory),)


def test_nothing_is_imported_before_it_is_needed() -> None:
    """A path may lead to what only replicas have."""
    wrapped = serve.wsgi_app("no.such.module:app")
    assert isinstance(pickle.loads(pickle.dumps(wrapped)), Application)
    with pytest.raises(ImportError):
        wrapped.load()


def test_a_declaration_is_found_and_keeps_its_fingerprint(project: Project) -> None:
    """As that of a function or class: in its module, the same each time."""
    source = (
        "import serve_bridge as serve\nshop = serve.backend('shop', route='/shop')(serve.wsgi_app('shop.web:app'))\n"
    )
    project.write("backends", source)
    (first,) = declared_in(project.load("backends"))
    project.forget()
    (second,) = declared_in("backends")
    assert first.fingerprint() == second.fingerprint()
    assert first.frozen().is_application
    assert first.methods == ("*",)


def test_an_endpoint_is_declared_with_one_kind() -> None:
    """Applications, or other code."""
    app = serve.backend("shared", route="/shared")(serve.asgi_app("a:b"))
    code = serve.backend("code", endpoint="shared")(lambda request: "")
    with pytest.raises(ConfigError, match="other code"):
        declared_in(app, code)


# where it is mounted


def head(path: str, *, root_path: str = "", params: Any = (), forwarded: bool = True) -> HttpHead:
    """Return the head of a request."""
    ends: Any = (None, None)
    request = ("GET", "http", "1.1", path, b"", root_path, b"", [], params)
    return HttpHead("e", "b", 1, 1.0, "id", "", *request, *ends, forwarded, None, b"")


@given(PATHS, PATHS)
def test_what_the_parameter_takes_is_below_the_mount(prefix: str, below: str) -> None:
    """Of a forwarded route; the slash between belongs to the application."""
    path = f"/{prefix}/{below}"
    found = mount_point(head(path, params=(("n", "int", "7"), ("path", "path", below))))
    assert path.removeprefix(found) == f"/{below}"


@given(PATHS, PATHS)
def test_other_requests_say_it_themselves(path: str, root_path: str) -> None:
    """The proxy's, and those of routes without the parameter, or where it is not at the end."""
    other = (("path", "str", "x"),)
    assert mount_point(head(f"{path}y", root_path=root_path, params=other)) == root_path
    assert mount_point(head(path, root_path=root_path)) == root_path
    assert mount_point(head("/x", root_path=root_path, params=other, forwarded=False)) == root_path


def test_headers_of_the_client_become_variables_of_their_own() -> None:
    """Repeated ones are joined; none takes the place of a variable that others believe."""
    headers = [
        *(
            (b"accept", b"a"),
            (b"accept", b"b"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"content-type", b"text/plain"),
        ),
        *((b"proxy", b"evil"), (b"remote_user", b"evil"), (b"remote-user", b"seen"), (b"script-name", b"seen")),
    ]
    environ = environ_of(msgspec.structs.replace(head("/a/x", root_path="/a", forwarded=False), headers=headers))
    named = {key: value for key, value in environ.items() if key.startswith(("HTTP_", "CONTENT_", "REMOTE_"))}
    assert named == {
        "HTTP_ACCEPT": "a,b",
        "HTTP_COOKIE": "a=1; b=2",
        "CONTENT_TYPE": "text/plain",
        "HTTP_REMOTE_USER": "seen",
        "HTTP_SCRIPT_NAME": "seen",
    }
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/a", "/x")


# wanted


def wanted() -> WantedState:
    """Return an application and other code, each behind an endpoint."""
    made = WantedState()
    for name, is_application in (("app", True), ("code", False)):
        config = serve.BackendConfig()
        made.backends[name] = BackendSpec(name, b"", True, config, Opaque({}), is_application=is_application)
        made.create_endpoint(name, name, f"/{name}", None)
    return made


def test_the_table_says_what_is_a_mount() -> None:
    """So that proxies need not ask."""
    endpoints = wanted().table("g", 1, {}).endpoints
    assert {name: (each.methods, each.mount) for name, each in endpoints.items()} == {
        "app": (("*",), True),
        "code": (("GET",), False),
    }


@pytest.mark.parametrize(
    ("backend", "methods"), [("app", ("GET",)), ("code", ("*",))], ids=["methods-of-a-mount", "code-as-a-mount"]
)
def test_a_declared_endpoint_is_of_the_kind_of_its_backends(backend: str, methods: tuple[str, ...]) -> None:
    """Those that it has, and those that it is made with; nothing changes otherwise."""
    made = wanted()
    for name in ("new", backend):
        with pytest.raises(ConfigError, match="application"):
            made.declare_endpoints([DeclaredEndpoint(name, backend, "/new", methods)], ())
    assert made.describe_endpoints() == wanted().describe_endpoints()
