"""What `check_route` takes and refuses, and the values that `convert` gives."""

from __future__ import annotations

import uuid

import pytest

from serve_bridge.http.path_params import check_route, compile_route, convert


@pytest.mark.parametrize(
    "route",
    [
        "/",
        "/a",
        "/a/",
        "//a",
        "/-",
        "/-x/",
        "/{x}",
        "/{x}{y}",
        "/d/{a}-{b}-{c}.json",
        "/{slug}-{number:int}.html",
        "/{name}-{id:uuid}",
        "/{x:float},{y:float}",
        "/{p:path}/{name}.{ext}",
        "/{a:int}-{b:float}.json",
        "/{p:path}",
        "/{p:path}/edit",
        "/{u:uuid}",
        "/a.b(c)[d]*+?^$|\\",
        "/{request}/{self}/{scope}",
        "/" + "a" * 10_000,
        "/größe",
    ],
)
def test_a_starlette_path_is_a_route(route: str) -> None:
    """What Starlette compiles is returned unchanged."""
    assert check_route(route) == route


@pytest.mark.parametrize("route", [None, 5, b"/a", "", "a", "a/b", " /a", "{x}"])
def test_a_route_is_a_str_that_starts_with_a_slash(route: object) -> None:
    """Anything else has the wrong type."""
    with pytest.raises(TypeError, match=r"starts? with '/'"):
        check_route(route)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ("/-/hack", "reserved"),
        ("/-/", "reserved"),
        ("/-/{x}", "reserved"),
        ("/{x:foo}", "unknown converter 'foo'"),
        ("/{x}/{x}", "[Dd]uplicate"),
        ("/x/<int:a>", r"did you mean '/x/{a:int}'\?"),
        ("/<a>/<string(length=2):b>", r"did you mean '/{a}/{b}'\?"),
        ("/a>b", r"write {name}"),
        ("/{x", "brace"),
        ("/x}", "brace"),
        ("/{1x}", "brace"),
        ("/{}", "brace"),
        ("/{x:}", "brace"),
        ("/{x y}", "brace"),
        ("/{{x}}", "brace"),
        ("/a\x1b[31m", r"control character '\\x1b'"),
        ("/a\nb", r"control character '\\n'"),
        ("/{x}\x9b", r"control character '\\x9b'"),
        ("/a\u2028b", "control character"),
        ("/{x:int}{y}", "'y' begins is ambiguous; put a '/' before it"),
        ("/{a}.{p:path}", "'p' begins is ambiguous; put a parameter of type 'path' behind a '/'"),
        ("/{a}-{b:float}.{c}", "'c' begins is ambiguous"),
        ("/" + "-".join(f"{{x{number}}}" for number in range(65)), "65 parameters; at most 64"),
    ],
)
def test_a_route_that_starlette_does_not_compile_is_refused(route: str, reason: str) -> None:
    """The caller gets a ValueError that quotes the reason."""
    with pytest.raises(ValueError, match=reason):
        check_route(route)


@pytest.mark.parametrize("route", ["/-", "/{p:path}", "/a/{p:path}/b", "/-/x"])
def test_a_mount_needs_a_prefix_with_an_end(route: str) -> None:
    """A prefix that reaches into /-/, or whose end is open, is refused."""
    with pytest.raises(ValueError, match=r"reserved|path"):
        check_route(route, mount=True)


@pytest.mark.parametrize("route", ["/", "/ml", "/ml/", "/{tenant}/ml"])
def test_a_mount_may_have_any_other_prefix(route: str) -> None:
    """The root, a static prefix and one with parameters are fine."""
    assert check_route(route, mount=True) == route


def test_values_have_the_types_of_their_converters() -> None:
    """Each converter gives the type that Starlette documents."""
    number = "0192d3a4-0000-4000-8000-00000000000F"
    params = [
        ("s", "str", "5"),
        ("i", "int", "05"),
        ("f", "float", "1.5"),
        ("p", "path", "a/b"),
        ("u", "uuid", number),
    ]
    assert convert(params) == {"s": "5", "i": 5, "f": 1.5, "p": "a/b", "u": uuid.UUID(number)}


def test_a_number_that_python_does_not_read_is_a_value_error() -> None:
    """Python refuses to read integers of more than 4,300 digits."""
    with pytest.raises(ValueError, match="digits"):
        convert([("i", "int", "9" * 5_000)])


def test_the_pieces_surround_the_params() -> None:
    """There is one literal piece more than there are parameters."""
    compiled = compile_route("/a/{x}-{y:int}.json")
    assert (compiled.pieces, compiled.params) == (("/a/", "-", ".json"), (("x", "str"), ("y", "int")))
