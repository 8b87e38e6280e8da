"""A pattern matches what Starlette's own regex matches, in time linear in the path."""

from __future__ import annotations

from re._parser import parse  # type: ignore[import-not-found]
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from starlette.convertors import CONVERTOR_TYPES
from starlette.routing import compile_path

from serve_bridge.errors import ConfigError
from serve_bridge.http.path_params import CONVERTERS, check_route, compile_route
from serve_bridge.http.path_pattern import PathPattern

TEXTS = st.sampled_from(["", "-", ".", "/", "a", "1", "-1", "1a", ".a", "/a", "a/", "-/", "0", "aa", "1.", "(", "$"])
UUIDS = ["0" * 32, "00000000-0000-0000-0000-00000000000a", "0" * 31]
VALUES = {
    "str": st.text("ab-.10(", min_size=1, max_size=5),
    "int": st.text("01", min_size=1, max_size=4),
    "float": st.sampled_from(["1", "1.1", "10.01", "1.", "1.1.1"]),
    "path": st.text("a/-.1", max_size=6),
    "uuid": st.sampled_from(UUIDS),
}


@st.composite
def routes_and_paths(draw: st.DrawFn) -> tuple[str, str]:
    """A route with several parameters, and a path that it matches or nearly matches."""
    route = path = "/" + draw(TEXTS)
    for number in range(draw(st.integers(1, 4))):
        converter = draw(st.sampled_from(["str", "str", *CONVERTERS]))
        text = draw(TEXTS)
        route += f"{{p{number}:{converter}}}{text}"
        path += draw(VALUES[converter] | st.text("a-.1/", max_size=4)) + text
    return route, path


def pattern_of(route: str) -> PathPattern:
    """The pattern of a route that an endpoint may have."""
    compiled = compile_route(check_route(route))
    return PathPattern(route, compiled.pieces, compiled.params)


@settings(max_examples=10 * settings().max_examples)
@given(routes_and_paths())
def test_an_accepted_route_matches_as_starlette_does(both: tuple[str, str]) -> None:
    """The same paths match, with the same texts of the parameters."""
    route, path = both
    try:
        found = pattern_of(route).match(path)
    except ConfigError:
        assume(False)
        raise
    expected = compile_path(route)[0].fullmatch(path)
    names = [name for name, _ in compile_route(route).params]
    assert (found and list(found)) == (expected and [expected[name] for name in names])


@pytest.mark.parametrize(
    ("route", "path", "texts"),
    [
        ("/d/{a}-{b}-{c}.json", "/d/1-2-3-4.json", ["1-2", "3", "4"]),
        ("/d/{a}-{b}-{c}.json", "/d/1-2.json", None),
        ("/{a:int}-{b}", "/1-2-3", ["1", "2-3"]),
        ("/{slug}-{id:int}.html", "/a-1-2.html", ["a-1", "2"]),
        ("/{name}-{id:uuid}", f"/a-b-{UUIDS[1]}", ["a-b", UUIDS[1]]),
        ("/{p:path}.{ext}", "/a.b/c.tar.gz", ["a.b/c.tar", "gz"]),
        ("/{p:path}.{ext}", "/a.b/c", None),
        ("/{a:path}/x/{b:path}", "/1/x/2/x/3", ["1/x/2", "3"]),
        ("/{a}.{b}/edit/{c}", "/1.2.3/edit/4", ["1.2", "3", "4"]),
        ("/{x:float}.json", "/1.5.json", ["1.5"]),
    ],
)
def test_the_first_parameter_takes_as_much_as_it_can(route: str, path: str, texts: list[str] | None) -> None:
    """The usual shapes of several parameters in one segment."""
    found = pattern_of(route).match(path)
    assert (found and list(found)) == texts


@pytest.mark.parametrize(
    "route",
    [
        "/d/{a}-{b}-{c}.json",
        "/{a}/{b}-{c}/{d:int}x{e:float}/{f:uuid}",
        "/{a:path}/x/{b:path}/x/{c:path}",
        "/{a}{b}{c}{d}",
        "/{p:path}/{a}.{b}/edit",
    ],
)
@pytest.mark.parametrize("mount", [False, True])
def test_no_repeat_of_the_regex_gives_back(route: str, mount: bool) -> None:
    """Each repeat has a fixed count or is possessive, and there are no branches, so no character is read twice."""
    compiled = compile_route(route)
    found = operations(parse(PathPattern(route, compiled.pieces, compiled.params, mount=mount).regex.pattern))
    assert found <= {
        "LITERAL",
        "NOT_LITERAL",
        "ANY",
        "IN",
        "SUBPATTERN",
        "MAX_REPEAT of fixed count",
        "POSSESSIVE_REPEAT",
    }


def operations(pattern: Any) -> set[str]:
    """The names of all operations of a parsed regex."""
    found: set[str] = set()
    for operation, argument in pattern:
        name = str(operation)
        if name == "MAX_REPEAT" and argument[0] == argument[1]:
            name = "MAX_REPEAT of fixed count"
        found.add(name)
        if name == "SUBPATTERN" or "REPEAT" in name:
            found |= operations(argument[-1])
    return found


def test_the_types_are_starlettes() -> None:
    """A new version of Starlette that changes a type is noticed here."""
    assert {name: CONVERTOR_TYPES[name].regex for name in CONVERTERS} == {
        "str": "[^/]+",
        "path": ".*",
        "int": "[0-9]+",
        "float": r"[0-9]+(\.[0-9]+)?",
        "uuid": "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
    }
