"""Options of forwarded routes, and settings that list such routes: what is taken, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.patterns import Patterns, translate
from serve_bridge.adapters.bridge.route_spec import RouteSpec, parse_routes
from serve_bridge.config.checks import flag
from serve_bridge.errors import ConfigError


def test_a_route_without_options_calls_the_backend_itself() -> None:
    """No method, no credentials, no context, no limits of its own."""
    route = ForwardedRoute("e")
    assert (route.endpoint, route.call_method, route.timeout_s) == ("e", "", None)
    assert (route.credentials, route.context, route.max_body_bytes) == (False, None, None)


def test_options_are_kept() -> None:
    """Each under its name."""
    route = ForwardedRoute("e", {"method_name": "m", "timeout_s": 5, "credentials": True, "max_body_bytes": 7})
    assert (route.call_method, route.timeout_s, route.credentials, route.max_body_bytes) == ("m", 5.0, True, 7)


def test_a_route_may_leave_the_method_to_the_request() -> None:
    """None stands for the request's header."""
    assert ForwardedRoute("e", {"method_header": True}).call_method is None


@pytest.mark.parametrize("given", [True, False])
def test_a_route_may_let_the_request_shorten_its_time(given: bool) -> None:
    """If it says so."""
    assert ForwardedRoute("e", {"timeout_header": given}).timeout_header is given
    assert ForwardedRoute("e").timeout_header is False


def test_an_unknown_option_is_a_type_error_with_the_nearest_one() -> None:
    """As a misspelt keyword argument is."""
    options: Any = {"timout_s": 5}
    with pytest.raises(TypeError, match=r"timout_s is not an option .*did you mean 'timeout_s'\?; known: method_name"):
        ForwardedRoute("e", options)


@pytest.mark.parametrize("endpoint", [None, "", 5])
def test_an_endpoint_is_a_name(endpoint: Any) -> None:
    """And not empty."""
    with pytest.raises(TypeError, match=r"endpoint must be the name of an endpoint"):
        ForwardedRoute(endpoint)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout_s", "5"),
        ("timeout_s", 0),
        ("timeout_s", True),
        ("method_name", "a b"),
        ("method_header", 1),
        ("timeout_header", "yes"),
        ("credentials", "yes"),
        ("max_body_bytes", -1),
        ("max_body_bytes", 1.0),
        ("context", "user"),
    ],
)
def test_a_bad_value_is_named_by_its_option(option: str, value: Any) -> None:
    """With what it should be."""
    options: Any = {option: value}
    with pytest.raises(ConfigError, match=rf"^here\.{option} must be "):
        ForwardedRoute("e", options, where="here.")


def test_two_ways_to_choose_the_method_exclude_each_other() -> None:
    """One of them would be for nothing."""
    with pytest.raises(ConfigError, match=r"exclude each other"):
        ForwardedRoute("e", {"method_name": "m", "method_header": True})


# settings


def test_a_setting_maps_patterns_to_endpoints() -> None:
    """Or to entries with options; the order is kept."""
    specs = parse_routes({"a/": "e", "b/": {"endpoint": "f", "methods": ["get", "POST", "GET"], "timeout_s": 5}})
    assert specs == (RouteSpec("a/", "e"), RouteSpec("b/", "f", ("GET", "POST"), {"timeout_s": 5}))


def test_a_framework_may_allow_more_in_an_entry() -> None:
    """It is checked, and kept apart from the options."""
    (spec,) = parse_routes({"a/": {"endpoint": "e", "exempt": True}}, extra={"exempt": flag})
    assert (spec.options, spec.extra) == ({}, {"exempt": True})
    with pytest.raises(ConfigError, match=r"ROUTES\['a/'\]\.exempt must be True or False, got 1"):
        parse_routes({"a/": {"endpoint": "e", "exempt": 1}}, extra={"exempt": flag})


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ([], TypeError, r"^ROUTES must be a dict of patterns and endpoints, got list"),
        ({5: "e"}, TypeError, r"^ROUTES\[5\]: a pattern is a str, got int"),
        ({"a": 5}, TypeError, r"^ROUTES\['a'\] must be the name of an endpoint, or a dict of options, got 5"),
        ({"a": {}}, ConfigError, r"^ROUTES\['a'\] has no 'endpoint'"),
        ({"a": {"endpont": "e"}}, ConfigError, r"unknown key 'endpont'; did you mean 'endpoint'\?"),
        ({"a": {"endpoint": "e", "timeout": 5}}, ConfigError, r"unknown key 'timeout'; did you mean 'timeout_s'\?"),
        ({"a": {"endpoint": "e", "timeout_s": "x"}}, ConfigError, r"^ROUTES\['a'\]\.timeout_s must be .*got 'x'"),
        ({"a": {"endpoint": "e", "methods": "GET"}}, ConfigError, r"^ROUTES\['a'\]\.methods must be a list"),
        ({"a": {"endpoint": "e", "methods": ["a b"]}}, ConfigError, r"^ROUTES\['a'\]\.methods must be .*got 'a b'"),
        ({"a": {"endpoint": 5}}, TypeError, r"^ROUTES\['a'\]\.endpoint must be the name"),
    ],
)
def test_what_is_wrong_in_a_setting_is_named_by_its_path(value: Any, error: type[Exception], said: str) -> None:
    """With the nearest right word, where there is one."""
    with pytest.raises(error, match=said):
        parse_routes(value)


@pytest.mark.parametrize("pattern", ["/a\x1b[2J", "/a\n", "/\x9b"])
def test_a_pattern_with_a_control_character_is_refused(pattern: str) -> None:
    """In every framework's syntax: the pattern appears in logs and on terminals."""
    with pytest.raises(ConfigError, match="control character"):
        parse_routes({pattern: "e"})


# patterns


def test_a_path_leads_to_its_route_with_typed_parameters() -> None:
    """The first that matches wins; HEAD comes with GET."""
    patterns = Patterns(parse_routes({"/a/{n:int}": {"endpoint": "e", "methods": ["GET"]}, "/a/{rest:path}": "f"}))
    found = patterns.match("/a/5")
    assert found is not None
    assert (found.route.endpoint, found.path_params, found.takes("HEAD"), found.takes("PUT")) == (
        *("e", {"n": 5}, True, False),
    )
    other = patterns.match("/a/b/c")
    assert other is not None
    assert (other.route.endpoint, other.path_params, other.takes("PUT")) == ("f", {"rest": "b/c"}, True)


def test_a_path_that_nothing_matches_leads_nowhere() -> None:
    """Nor does a number that Python does not read."""
    patterns = Patterns(parse_routes({"/a/{n:int}": "e"}))
    assert patterns.match("/b") is None
    assert patterns.match("/a/" + "1" * 5000) is None


def test_a_pattern_is_written_in_another_syntax() -> None:
    """With the names and the text around them."""
    assert translate("/a/{n:int}/{name}.txt", {"int": "<int:{}>", "str": "<{}>"}) == "/a/<int:n>/<name>.txt"


def test_a_converter_that_the_framework_has_not_is_named() -> None:
    """With the route."""
    with pytest.raises(ValueError, match=r"'/{x:float}': no parameter of type 'float'"):
        translate("/{x:float}", {"str": "<{}>"})
