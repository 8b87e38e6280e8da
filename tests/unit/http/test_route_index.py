"""The route index answers like a scan over all routes, and without one."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import compile_path

from serve_bridge.errors import ConfigError
from serve_bridge.http.path_params import check_route, compile_route, convert
from serve_bridge.http.route import Route
from serve_bridge.http.route_index import Match, RouteIndex


def route(path: str, *, mount: bool = False) -> Route:
    """A route whose endpoint is named like its path."""
    return Route(path, path, frozenset({"GET"}), mount)


def index(*paths: str) -> RouteIndex:
    """An index of routes without mounts."""
    return RouteIndex([route(path) for path in paths])


def owner(found: Match | None) -> str | None:
    """The endpoint of a match."""
    return found and found[0].endpoint


def scan(routes: list[Route], path: str) -> Match | None:
    """The specification: try every route in the order of creation, with Starlette's own regex."""
    for candidate in routes:
        compiled = compile_route(candidate.path)
        found = compile_path(candidate.path)[0].fullmatch(path)
        if found is None or path.startswith("/-/"):
            continue
        params = tuple((name, converter, found[name]) for name, converter in compiled.params)
        try:
            convert(params)
        except ValueError:
            continue
        return candidate, params
    return None


TEXTS = st.sampled_from(["", "a", "b", "ab", "-", ".json", "1", "7.5"])
CONVERTERS = st.sampled_from(["", ":str", ":int", ":float", ":path", ":uuid"])


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """A route of a few segments, some with parameters."""
    path, count = "", 0
    for _ in range(draw(st.integers(1, 4))):
        path += "/" + draw(TEXTS)
        for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
            path += f"{{p{count}{draw(CONVERTERS)}}}" + draw(TEXTS)
            count += 1
    return route(path)


def is_accepted(candidate: Route) -> bool:
    """Whether an endpoint may have the route."""
    try:
        check_route(candidate.path)
    except ConfigError:
        return False
    return True


SEGMENTS = st.sampled_from(
    [
        "",
        "a",
        "b",
        "ab",
        "a1",
        "1",
        "-",
        "1-2",
        "7.5",
        "a.json",
        "1.json",
        "ä",
        "0" * 32,
        "{x}",
    ]
)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=5).map(lambda segments: "/" + "/".join(segments))


@given(st.lists(routes().filter(is_accepted), max_size=8), st.lists(PATHS, min_size=1, max_size=8))
def test_a_match_is_what_a_scan_in_order_of_creation_finds(table: list[Route], paths: list[str]) -> None:
    """Dict, trie and pruning change the cost and nothing else."""
    found = RouteIndex(table)
    for path in paths + [candidate.path for candidate in table]:
        assert found.match(path) == scan(table, path)


def test_parameters_come_with_name_converter_and_text() -> None:
    """A match carries what a replica needs to make typed values."""
    found = index("/users/{id:int}/{rest:path}").match("/users/5/a/b")
    assert found is not None
    assert found[1] == (("id", "int", "5"), ("rest", "path", "a/b"))


@pytest.mark.parametrize(("pattern", "matches"), [("/{x}", True), ("/{p:path}", False), ("/{x:int}", False)])
def test_a_line_feed_is_matched_as_by_starlette(pattern: str, matches: bool) -> None:
    """A text takes it, and a path does not."""
    assert (index(pattern).match("/5\n") is not None) is matches


@pytest.mark.parametrize(("paths", "winner"), [(("/{x}", "/a"), "/{x}"), (("/a", "/{x}"), "/a")])
def test_the_first_created_wins_between_static_and_dynamic(paths: tuple[str, str], winner: str) -> None:
    """A static route is not preferred, only found faster."""
    assert owner(index(*paths).match("/a")) == winner


def test_of_equal_routes_the_first_created_wins() -> None:
    """A path that two endpoints hold belongs to the older one."""
    older, newer = Route("old", "/a", frozenset()), Route("new", "/a", frozenset())
    assert owner(RouteIndex([older, newer]).match("/a")) == "old"


@pytest.mark.parametrize("path", ["/api/", "//api", "/api//x", "/./api", "/a/../api", "/API", "/api\n", "", "*", "api"])
def test_matching_is_exact(path: str) -> None:
    """No slash is added or dropped, nothing is normalised, letter case counts."""
    assert index("/api").match(path) is None


@pytest.mark.parametrize(
    "path",
    ["/-/", "/-/ready", "/-/a/b", "//-/ready", "///-/x", "/./-/x", "/a/../-/x", "/-//x", "/-/../a", "/a/..//-/x"],
)
def test_nothing_under_the_reserved_prefix_matches(path: str) -> None:
    """Neither a catch-all nor a mount receives what the proxy keeps for itself."""
    assert RouteIndex([route("/{x:path}"), route("/", mount=True), route("/{a}/{b}")]).match(path) is None


def test_an_integer_too_long_for_python_is_no_match() -> None:
    """The path names nothing there, and the next route gets its chance."""
    long = "/" + "9" * 5_000
    assert index("/{x:int}").match(long) is None
    assert owner(index("/{x:int}", "/{x}").match(long)) == "/{x}"


@pytest.mark.parametrize("path", ["/x", "/123", "/{0192d3a4-0000-4000-8000-000000000000}"])
def test_a_wrong_uuid_is_no_match(path: str) -> None:
    """Length and shape of a UUID are exact."""
    assert index("/{u:uuid}").match(path) is None


@pytest.mark.parametrize("path", ["/ml", "/ml/", "/ml/a/b", "/ml/a\nb"])
def test_a_mount_takes_its_prefix_and_all_below(path: str) -> None:
    """The mounted application sees every sub-path."""
    assert owner(RouteIndex([route("/ml", mount=True)]).match(path)) == "/ml"


@pytest.mark.parametrize("path", ["/m", "/mlx", "/x/ml", "/"])
def test_a_mount_takes_nothing_beside_its_prefix(path: str) -> None:
    """A prefix ends at a slash."""
    assert RouteIndex([route("/ml", mount=True)]).match(path) is None


@pytest.mark.parametrize("path", ["/", "/a", "/a/b", "//"])
def test_a_mount_at_the_root_takes_everything(path: str) -> None:
    """Its root path is empty."""
    found = RouteIndex([route("/", mount=True)]).match(path)
    assert found is not None
    assert found[0].root_path(path) == ""


def test_a_mount_before_a_route_hides_it_and_one_after_does_not() -> None:
    """Overlapping mounts and routes follow the order of creation too."""
    before = RouteIndex([route("/ml", mount=True), route("/ml/x")])
    after = RouteIndex([route("/ml/x"), route("/ml", mount=True)])
    assert (owner(before.match("/ml/x")), owner(after.match("/ml/x"))) == ("/ml", "/ml/x")


@pytest.mark.parametrize(("prefix", "path", "root"), [("/ml/", "/ml/a", "/ml"), ("/{t}/ml", "/x/ml/a/b", "/x/ml")])
def test_the_root_path_is_the_matched_prefix(prefix: str, path: str, root: str) -> None:
    """A mounted application learns where it lives, parameters included."""
    found = RouteIndex([route(prefix, mount=True)]).match(path)
    assert found is not None
    assert found[0].root_path(path) == root


@pytest.mark.parametrize("shape", ["/static/{}", "/models/{}/{{x}}", "/v{}-{{x}}", "/{{tenant}}/{}/{{p:path}}"])
def test_the_work_of_a_match_does_not_grow_with_the_number_of_routes(shape: str) -> None:
    """Function calls made by one match are as many with 1,000 routes as with 10."""

    def calls(count: int) -> int:
        found = index(*(shape.format(number) for number in range(count)))
        path = shape.format(count - 1).replace("{tenant}", "t").replace("{x}", "1").replace("{p:path}", "a/b")
        made = 0

        def trace(*_: object) -> None:
            nonlocal made
            made += 1

        sys.setprofile(trace)
        try:
            assert found.match(path) is not None
        finally:
            sys.setprofile(None)
        return made

    assert calls(1_000) <= calls(10) + 10
