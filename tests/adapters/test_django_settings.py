"""Django: the setting SERVE_BRIDGE, and the system checks that say what is wrong with it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.decorators import login_required
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client, override_settings
from django.urls import include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

import serve_bridge as serve
from serve_bridge.adapters.django import abridge_view, bridge_view
from serve_bridge.adapters.django.settings import RUNTIME_VARIABLE, options
from serve_bridge.errors import ConfigError
from tests.adapters.support.django_site import MIDDLEWARE, URLS, site


def found(setting: Any, *, deploy: bool = False, **settings: Any) -> dict[str, str]:
    """Return the messages of our checks under *setting*, by id."""
    given = {"ROOT_URLCONF": URLS, "MIDDLEWARE": [MIDDLEWARE], **settings}
    with override_settings(SERVE_BRIDGE=setting, **given):
        messages = run_checks(tags=["serve_bridge"], include_deployment_checks=deploy)
    assert all(message.hint for message in messages if message.id.startswith("serve_bridge"))
    return {message.id.removeprefix("serve_bridge."): message.msg for message in messages}


@pytest.mark.parametrize(
    ("setting", "number", "said"),
    [
        ([], "E001", "SERVE_BRIDGE must be a dict, got list."),
        ({"ADRESS": 1}, "E002", "did you mean 'ADDRESS'?"),
        ({"address": 1}, "E002", "did you mean 'ADDRESS'?"),
        ({"qqq": 1}, "E002", "known: ADDRESS, NAME, TIMEOUT_S, RUNTIME, ASYNC, ROUTES"),
        ({"ADDRESS": 5}, "E003", "SERVE_BRIDGE['ADDRESS'] must be a str, got 5."),
        ({"NAME": "a b"}, "E003", "SERVE_BRIDGE['NAME']"),
        ({"TIMEOUT_S": "20"}, "E003", "SERVE_BRIDGE['TIMEOUT_S'] must be a number of seconds"),
        ({"TIMEOUT_S": None}, "E003", "SERVE_BRIDGE['TIMEOUT_S'] must be a number of seconds"),
        ({"RUNTIME": "ray"}, "E003", "SERVE_BRIDGE['RUNTIME'] must be None"),
        ({"ASYNC": 1}, "E003", "SERVE_BRIDGE['ASYNC'] must be True or False"),
        ({"ROUTES": ["a"]}, "E004", "SERVE_BRIDGE['ROUTES'] must be a dict"),
        ({"ROUTES": {"a/": 5}}, "E004", "SERVE_BRIDGE['ROUTES']['a/'] must be the name of an endpoint"),
        ({"ROUTES": {"a/": {"endpoint": "e", "method": "GET"}}}, "E004", "did you mean 'methods'?"),
        ({"ROUTES": {"a/": {"endpoint": "e", "timeout_s": "x"}}}, "E004", "['a/'].timeout_s must be a number"),
        ({"ROUTES": {"a/": {"endpoint": "e", "decorators": ["no.such"]}}}, "E004", "['a/'].decorators: No module"),
        ({"ROUTES": {"a/<no:x>/": "e"}}, "E005", "SERVE_BRIDGE['ROUTES']['a/<no:x>/']"),
        ({"ROUTES": {"a/{x:int}/<y>/": "e"}}, "E005", "did you mean 'a/<int:x>/<y>/'?"),
    ],
)
def test_what_is_wrong_is_an_error_that_names_it(setting: Any, number: str, said: str) -> None:
    """With the nearest right word, and what was given."""
    messages = found(setting)
    assert list(messages) == [number]
    assert said in messages[number]


def test_the_hint_of_an_unknown_key_lists_the_keys() -> None:
    """A key may be near to none of them, or to the wrong one."""
    with override_settings(SERVE_BRIDGE={"ADRESS": 1}, MIDDLEWARE=[MIDDLEWARE]):
        hints = [message.hint for message in run_checks(tags=["serve_bridge"])]
    assert hints == ["The keys are: ADDRESS, NAME, TIMEOUT_S, RUNTIME, ASYNC, ROUTES."]


def test_a_wrong_runtime_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the variable may be."""
    monkeypatch.setenv(RUNTIME_VARIABLE, "ray")
    assert "SERVE_BRIDGE_RUNTIME must be unset or 'local', got 'ray'" in found({})["E003"]


def test_all_that_is_wrong_is_told() -> None:
    """Not only the first."""
    with override_settings(SERVE_BRIDGE={"NAM": 1, "ROUTES": {"a/": 1, "b/": 2, "ok/": "e"}}, MIDDLEWARE=[MIDDLEWARE]):
        assert len(run_checks(tags=["serve_bridge"])) == 3


def test_django_checks_the_patterns() -> None:
    """As it does those of URLs."""
    assert list(found({"ROUTES": {"/a/": "e"}})) == ["urls.W002"]


def test_routes_that_nothing_serves_are_a_warning() -> None:
    """The middleware or an include does."""
    routes = {"ROUTES": {"a/": "e"}}
    assert list(found(routes, MIDDLEWARE=[], ROOT_URLCONF="tests.adapters.support.django_urls")) == ["W004"]
    assert found(routes, MIDDLEWARE=[]) == {}
    assert found(routes, ROOT_URLCONF="tests.adapters.support.django_urls") == {}


def test_a_sound_setting_passes() -> None:
    """In production too."""
    routes = {"a/<int:x>/": "e", "b/": {"endpoint": "e", "methods": ["GET"], "csrf_exempt": True, "credentials": True}}
    assert found({"ADDRESS": None, "TIMEOUT_S": 20, "ROUTES": routes}, deploy=True) == {}
    assert found({}, deploy=True) == {}


def test_a_time_above_gunicorns_is_a_warning_for_production() -> None:
    """Of the setting and of each route."""
    assert (
        "SERVE_BRIDGE['ROUTES']['a/']"
        in found({"ROUTES": {"a/": {"endpoint": "e", "timeout_s": 30}}}, deploy=True)["W001"]
    )
    assert list(found({"TIMEOUT_S": 60}, deploy=True)) == ["W001"]
    assert found({"TIMEOUT_S": 60}) == {}


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        ("--timeout 90", False),
        ("-w 4 --timeout=90 -k gthread", False),
        ("-t 0", False),
        ("-t90", False),
        ("--timeout 60", True),
        ("--timeout 90 -t 20", True),
        ("--timeout 'unclosed", True),
    ],
)
def test_gunicorns_own_timeout_is_known_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, arguments: str, warned: bool
) -> None:
    """The last one counts, and 0 is no limit."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    assert list(found({"TIMEOUT_S": 60}, deploy=True)) == (["W001"] if warned else [])


def test_an_instance_in_the_web_process_is_a_warning_for_production() -> None:
    """It is for development."""
    assert list(found({"RUNTIME": "local"}, deploy=True)) == ["W002"]


def test_a_forgeable_route_is_a_warning_for_production() -> None:
    """One that knows its user and needs no token."""
    routes = {"a/": {"endpoint": "e", "csrf_exempt": True, "context": {"user_id": "user.pk"}}}
    assert list(found({"ROUTES": routes}, deploy=True)) == ["W003"]


@pytest.mark.parametrize("make", [bridge_view, abridge_view])
def test_every_forwarded_view_of_the_urls_is_checked(make: Any) -> None:
    """Included and decorated ones too; the included ROUTES are those of the setting, told once."""
    slow = login_required(require_POST(make("slow", timeout_s=90)))
    inner = [path("slow/", slow), path("routes/", include("serve_bridge.adapters.django.urls"))]
    urls = (re_path("^(?P<tenant>[a-z]+)/", include((inner, "ml"))), path("quick/", make("quick", timeout_s=5)))
    routes = {"ROUTES": {"r/": {"endpoint": "r", "timeout_s": 5}}}
    messages = found(routes, deploy=True, MIDDLEWARE=[], ROOT_URLCONF=urls)
    assert list(messages) == ["W001"]
    assert messages["W001"].startswith("The URL '^(?P<tenant>[a-z]+)/slow/': a forwarded request may take 90 s")


@pytest.mark.parametrize(
    ("view", "is_open"),
    [
        (bridge_view("e", csrf_exempt=True, credentials=True), True),
        (csrf_exempt(bridge_view("e", context={"user": "user.pk"})), True),
        (require_POST(bridge_view("e", csrf_exempt=True, credentials=True)), True),
        (require_safe(bridge_view("e", csrf_exempt=True, credentials=True)), False),
        (bridge_view("e", csrf_exempt=True), False),
        (bridge_view("e", credentials=True), False),
    ],
)
def test_a_forgeable_view_is_a_warning_for_production(view: Any, is_open: bool) -> None:
    """As a route is, wherever the exemption and the methods are said."""
    assert list(found({}, deploy=True, ROOT_URLCONF=(path("a/", view),))) == (["W003"] if is_open else [])


VIEW = bridge_view("e")
LISTED = include("serve_bridge.adapters.django.urls")


@pytest.mark.parametrize(
    "pattern",
    [
        re_path(r"^a/([0-9]+)/$", VIEW),
        re_path(r"^a/([0-9]+)?/(b|c)$", abridge_view("e")),
        re_path(r"^([a-z]+)/", include([path("b/", VIEW)])),
        re_path(r"^([a-z]+)/", include([path("x/", include([re_path(r"^b/$", VIEW)]))])),
        re_path(r"^([a-z]+)/", LISTED),
        path("<int:a>/", include([re_path(r"^([0-9]+)/$", VIEW)])),
    ],
)
def test_unnamed_groups_are_an_error(pattern: Any) -> None:
    """In the pattern of a forwarded view, and in those that include it."""
    assert list(found({"ROUTES": {"r/": "e"}}, MIDDLEWARE=[], ROOT_URLCONF=(pattern, path("r/", LISTED)))) == ["E007"]


@pytest.mark.parametrize(
    "pattern",
    [
        re_path(r"^a/(?P<id>[0-9]+)/$", VIEW),
        re_path(r"^a/(?P<id>[0-9]+)(x|y)/(?:b|c)$", VIEW),
        re_path(r"^([a-z]+)/", include([path("<int:x>/", VIEW)])),
        re_path(r"^([a-z]+)/", include([path("b/", VIEW, {"x": 1})])),
        re_path(r"^([a-z]+)/", lambda request, word: None),
    ],
)
def test_groups_that_django_does_not_pass_are_none(pattern: Any) -> None:
    """It passes no unnamed ones beside named ones."""
    assert found({}, ROOT_URLCONF=(pattern,)) == {}


def test_unnamed_groups_are_told_where_no_checks_run(engine: serve.Client) -> None:
    """Servers run none."""
    urls: Any = (re_path(r"^a/([0-9]+)/$", bridge_view("state")),)
    with site(engine, urls=urls), pytest.raises(ImproperlyConfigured, match="name the groups"):
        Client().get("/a/5/")


def test_monkey_patched_sockets_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gevent's are not the operating system's."""
    patched = ModuleType("gevent.monkey")
    patched.is_module_patched = lambda name: name == "socket"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    assert "gevent has replaced the sockets" in found({})["E006"]


def test_a_wrong_setting_is_raised_where_it_is_used() -> None:
    """Servers run no checks."""
    with override_settings(SERVE_BRIDGE={"TIMEOUT": 5}), pytest.raises(ConfigError, match="'TIMEOUT_S'"):
        options()


def test_a_middleware_with_a_wrong_setting_does_not_load() -> None:
    """So the server does not start."""
    wrong = override_settings(SERVE_BRIDGE={"TIMEOUT": 5}, MIDDLEWARE=[MIDDLEWARE])
    with wrong, pytest.raises(ConfigError, match="'TIMEOUT_S'"):
        WSGIHandler()


def test_the_environment_chooses_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the setting, so that one command serves every project."""
    monkeypatch.setenv(RUNTIME_VARIABLE, "local")
    with override_settings(SERVE_BRIDGE={"RUNTIME": None}):
        assert options().runtime == "local"
    monkeypatch.setenv(RUNTIME_VARIABLE, "ray")
    assert RUNTIME_VARIABLE in found({})["E003"]


def test_defaults_hold_for_what_is_not_given(engine: serve.Client) -> None:
    """A request may take less than gunicorn lets a worker."""
    with site(engine):
        assert (options().name, options().timeout_s, options().routes) == ("default", 25.0, ())
