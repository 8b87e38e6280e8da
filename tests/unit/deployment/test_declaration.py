"""Declaring backends, and finding what is declared."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge.deployment.collecting import declared_in
from serve_bridge.deployment.declaration import Declaration
from serve_bridge.deployment.endpoint_declaration import EndpointDeclaration
from serve_bridge.errors import ConfigError, SerializationError
from serve_bridge.user_code.frozen_code import FrozenCode
from serve_bridge.user_code.surroundings import SurroundingsSpec
from tests.support.projects import Project, project_in


def function(request: Any) -> str:
    """Answer."""
    return "answer"


class Class:
    """A backend."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def __call__(self, request: Any) -> int:
        """Return the size."""
        return self.size


def fresh(source: Any = function) -> Any:
    """Return a new object to declare: one object is one backend."""
    if source is function:
        return lambda request: "answer"
    return type("Class", (Class,), {})


def only(*what: object) -> Declaration:
    """Return the one declaration of *what*."""
    (declaration,) = declared_in(*what)
    assert isinstance(declaration, Declaration)
    return declaration


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project."""
    with project_in(tmp_path) as project:
        yield project


# Declaring


def test_a_declared_object_stays_what_it_is() -> None:
    """It can be called and constructed as ever."""

    @serve.backend("b")
    def declared(request: int) -> int:
        return request + 1

    assert declared(1) == 2


def test_what_is_not_said_has_defaults() -> None:
    """An endpoint of the backend's own name, without a route."""

    @serve.backend
    def greeter(request: Any) -> str:
        return "hello"

    found = only(greeter)
    assert (found.name, found.endpoint, found.route, found.methods) == ("greeter", "greeter", None, ("GET",))
    assert found.config.given == frozenset()


def test_everything_that_is_said_is_kept() -> None:
    """As `create_backend` and `create_endpoint` would get it."""

    @serve.backend(
        "sized", endpoint="sizes", route="/sizes", methods=["post"], init_args=[2], num_replicas=3, version=7
    )
    class Sized(Class):
        pass

    found = only(Sized)
    assert (found.name, found.endpoint, found.route, found.methods) == ("sized", "sizes", "/sizes", ("POST",))
    assert (found.init_args, found.config.num_replicas, found.version) == ((2,), 3, "7")


def test_a_subclass_is_not_declared() -> None:
    """It is another class."""

    @serve.backend
    class Base(Class):
        pass

    class Derived(Base):
        pass

    with pytest.raises(TypeError, match=r"put @serve\.backend"):
        declared_in(Derived)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_replica": 2}, TypeError, "did you mean 'num_replicas'"),
    ({"root": "/x"}, TypeError, "did you mean 'route'"),
    ({"num_replicas": 0}, ConfigError, "num_replicas"),
    ({"name": "a b"}, ConfigError, "backend name"),
    ({"endpoint": "a b"}, ConfigError, "endpoint name"),
    ({"route": "x"}, TypeError, "/"),
    ({"methods": "GET"}, TypeError, "methods"),
    ({"methods": []}, ConfigError, "methods"),
    ({"timeout_s": 0}, ConfigError, "timeout_s"),
    ({"ray_actor_options": {"name": "x"}}, ConfigError, "name"),
    ({"surroundings": "nowhere"}, ConfigError, "surroundings"),
    ({"surroundings": 5}, TypeError, "surroundings"),
]


@pytest.mark.parametrize(("options", "error", "text"), WRONG)
def test_a_wrong_option_is_an_error_where_it_is_written(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Before anything is decorated."""
    with pytest.raises(error, match=text):
        serve.backend(**options)


UNFIT: list[tuple[dict[str, Any], Any, type[Exception], str]] = [
    ({"init_args": (1, 2)}, Class, TypeError, "does not take these arguments"),
    ({"init_kwargs": {"size": 1}}, function, ConfigError, "no constructor"),
    ({"max_batch_size": 4}, function, ConfigError, "accept_batch"),
    ({"user_config": 1}, Class, ConfigError, "reconfigure"),
    ({}, lambda: None, ConfigError, "a lambda has no name"),
    ({}, 5, TypeError, "a backend is a function"),
    ({}, "shop:Attr", TypeError, "decorates"),
]


@pytest.mark.parametrize(("options", "code", "error", "text"), UNFIT)
def test_code_that_does_not_fit_its_options_is_refused(
    options: dict[str, Any], code: Any, error: type[Exception], text: str
) -> None:
    """As `create_backend` would refuse it, but where it is defined."""
    with pytest.raises(error, match=text):
        serve.backend(**options)(code)


def test_one_object_is_one_backend() -> None:
    """The second decorator would hide the first."""
    with pytest.raises(ConfigError, match="declared twice"):
        serve.backend("a")(serve.backend("b")(fresh()))


# Finding


def test_a_module_gives_what_is_defined_in_it_in_order(project: Project) -> None:
    """Not what it has imported, and an object with two names once."""
    project.write("far", "import serve_bridge as serve\n@serve.backend\ndef imported(request): ...")
    project.write(
        "near",
        """
        import serve_bridge as serve
        from far import imported
        @serve.backend
        def second(request): ...
        @serve.backend
        class First:
            def __call__(self, request): ...
        again = second
        """,
    )
    assert [each.name for each in declared_in("near")] == ["second", "First"]
    assert [each.name for each in declared_in(project.load("near"), "near:First", "far")] == [
        "second",
        "First",
        "imported",
    ]


@pytest.mark.parametrize(
    "path", ["nowhere_at_all", "nowhere_at_all.backends", "near.backends", ".", "", "near:Missing"]
)
def test_a_path_that_leads_nowhere_is_named(project: Project, path: str) -> None:
    """It was typed on a command line."""
    project.write("near", "")
    with pytest.raises(ConfigError):
        declared_in(path)


@pytest.mark.parametrize("source", ["import missing_module", "missing_name", "raise ValueError('no')"])
def test_what_a_module_raises_is_not_hidden(project: Project, source: str) -> None:
    """Its author needs the traceback."""
    project.write("broken", source)
    with pytest.raises((ImportError, NameError, ValueError)) as caught:
        declared_in("broken")
    assert not isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("what", [function, Class, 5, None, Class()])
def test_what_is_not_declared_is_a_type_error(what: object) -> None:
    """It says what to do."""
    with pytest.raises(TypeError, match=r"put @serve\.backend"):
        declared_in(what)


CONFLICTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"name": "a"}, {"name": "a"}, "backend 'a' is declared twice"),
    ({"name": "a", "endpoint": "e", "route": "/a"}, {"name": "b", "endpoint": "e", "route": "/b"}, "endpoint 'e'"),
    ({"name": "a", "endpoint": "e", "route": "/a"}, {"name": "b", "endpoint": "e", "methods": ["PUT"]}, "'e'"),
    ({"name": "a", "endpoint": "e", "route": "/a"}, {"name": "b", "endpoint": "e", "timeout_s": 5}, "'e'"),
    ({"name": "a", "route": "/x"}, {"name": "b", "route": "/x"}, "route '/x'"),
]


@pytest.mark.parametrize(("one", "other", "text"), CONFLICTS)
def test_declarations_that_contradict_each_other_are_refused(
    one: dict[str, Any], other: dict[str, Any], text: str
) -> None:
    """Both places are named."""
    declared = [serve.backend(**one)(fresh()), serve.backend(**other)(fresh(Class))]
    with pytest.raises(ConfigError, match=text) as caught:
        declared_in(*declared)
    assert "<lambda>" in str(caught.value)
    assert ":Class" in str(caught.value)


def test_backends_may_share_an_endpoint() -> None:
    """One of them says where it is."""
    declared = [serve.backend("a", endpoint="e")(fresh()), serve.backend("b", endpoint="e", route="/e")(fresh())]
    assert len(declared_in(*declared)) == 2


# The fingerprint, and how the code travels


BACKEND = "import serve_bridge as serve\n@serve.backend('b', init_args=[{args}], {options})\nclass B:\n" + (
    "    def __init__(self, *_): ...\n    def __call__(self, request): return 'answer' {comment}\n"
)


def fingerprint(project: Project, args: str = "", options: str = "", comment: str = "") -> str:
    """Return the fingerprint of a backend that is written so."""
    project.write("shop.backends", BACKEND.format(args=args, options=options, comment=comment))
    return only("shop.backends").fingerprint()


def test_the_same_declaration_has_the_same_fingerprint(project: Project) -> None:
    """Whenever it is read, and whatever the order of what has none."""
    assert fingerprint(project, "{'a', 'b', 'c'}") == fingerprint(project, "{'a', 'b', 'c'}")


@pytest.mark.parametrize(
    "change",
    [
        {"args": "1"},
        {"options": "version=1"},
        {"options": "surroundings='shop.serving:open'"},
        {"options": "ray_actor_options={'num_cpus': 2}"},
        {"comment": "# changed"},
    ],
)
def test_what_a_replica_starts_from_changes_the_fingerprint(project: Project, change: dict[str, str]) -> None:
    """The code, its arguments and what it runs in."""
    assert fingerprint(project, **change) != fingerprint(project)


CODE = "import serve_bridge as serve\nfrom shop import words\n@serve.backend('b'{options})\ndef b(request): ...\n"


def shop_in(directory: Path, options: str = "", **modules: str) -> str:
    """Write a package with a backend and other modules into *directory*, and return the backend's fingerprint."""
    directory.mkdir(exist_ok=True)
    with project_in(directory) as project:
        project.write("shop.backends", CODE.format(options=options))
        project.write("shop.words", "WORD = 1")
        for name, source in modules.items():
            project.write(name.replace("_", "."), source)
        return only("shop.backends").fingerprint()


@pytest.mark.parametrize("changed", ["shop_words", "shop_deep_down", "shop_unused"])
def test_every_module_below_the_top_package_counts(tmp_path: Path, changed: str) -> None:
    """Whether the backend's module imports it or not."""
    before = shop_in(tmp_path, shop_words="WORD = 1", shop_deep_down="", shop_unused="")
    assert shop_in(tmp_path, **{changed: "WORD = 2"}) != before


def test_another_checkout_with_the_same_content_has_the_same_fingerprint(tmp_path: Path) -> None:
    """Neither its path counts, nor the times of its files, nor files that are not modules."""
    one = shop_in(tmp_path / "one")
    (tmp_path / "other" / "shop" / "__pycache__").mkdir(parents=True)
    (tmp_path / "other" / "shop" / "__pycache__" / "words.cpython-311.pyc").write_bytes(b"?")
    (tmp_path / "other" / "shop" / "notes.txt").write_text("?")
    assert shop_in(tmp_path / "other") == one
    for file in (tmp_path / "other").rglob("*.py"):
        os.utime(file, (1, 1))
    assert shop_in(tmp_path / "other") == one


def test_a_version_stands_for_the_code(tmp_path: Path) -> None:
    """Code may change without a new deployment, and the version with the same code is one."""
    before = shop_in(tmp_path, ", version=1")
    assert shop_in(tmp_path, ", version=1", shop_words="WORD = 2") == before
    assert shop_in(tmp_path, ", version=2", shop_words="WORD = 2") != before


def test_a_module_in_no_package_counts_with_what_it_imports_from_beside_it(project: Project) -> None:
    """Modules and packages, and what these modules import."""
    source = "import serve_bridge as serve, near\n@serve.backend\ndef b(request): ..."

    def written(**modules: str) -> str:
        for name, text in {
            "near": "import farther",
            "farther": "",
            "unrelated": "",
            "single": source,
            **modules,
        }.items():
            project.write(name, text)
        return only("single").fingerprint()

    before = written()
    assert written(unrelated="x = 1") == before
    assert written(farther="x = 1") != before
    assert written(near="import farther\nx = 1") != before


def test_the_package_of_an_application_and_of_surroundings_counts(project: Project) -> None:
    """Their code need not lie where the declaration does."""
    project.write(
        "declared",
        """
        import serve_bridge as serve
        app = serve.backend("app")(serve.wsgi_app("shop.wsgi:application"))
        @serve.backend(surroundings="frame.serving:open")
        def b(request): ...
        """,
    )

    def fingerprints(word: str, frame: str) -> list[str]:
        project.write("shop.words", word)
        project.write("shop.wsgi", "def application(environ, start_response): ...")
        project.write("frame.serving", frame)
        found = declared_in("declared")
        return [each.fingerprint() for each in found if isinstance(each, Declaration)]

    before = fingerprints("", "")
    changed_app, changed_frame = fingerprints("WORD = 2", "open = 1")
    assert changed_app != before[0]
    assert changed_frame != before[1]


def test_options_are_no_part_of_the_fingerprint() -> None:
    """They can be changed without new replicas."""
    declared = only(serve.backend("b", num_replicas=2)(function_like()))
    assert declared.fingerprint() == only(serve.backend("b", num_replicas=3)(function_like())).fingerprint()


def function_like(answer: str = "answer") -> Callable[[Any], str]:
    """Return a local function with a variable of its own."""

    def local(request: Any) -> str:
        return answer

    return local


def test_what_a_local_function_has_from_around_it_counts() -> None:
    """The source is the same."""
    one, other = (only(serve.backend("b")(function_like(answer))) for answer in ("one", "other"))
    assert one.fingerprint() != other.fingerprint()


def test_code_in_a_module_travels_as_its_path(project: Project) -> None:
    """With the directory to import it from."""
    fingerprint(project)
    frozen = FrozenCode.of(only("shop.backends").frozen().code)
    assert (frozen.thaw()[0], frozen.search_path) == ("shop.backends:B", (str(project.directory),))


def test_local_code_travels_by_value() -> None:
    """No path leads to it."""
    frozen = FrozenCode.of(only(serve.backend("b")(function_like("by value"))).frozen().code)
    assert frozen.thaw()[0](None) == "by value"


def test_surroundings_bring_their_directory(project: Project) -> None:
    """They need not lie beside the backend."""
    project.write("frame", "")
    spec = SurroundingsSpec("frame:open", {"settings": "x"}, ("/elsewhere",))
    frozen = FrozenCode.of(only(serve.backend("b", surroundings=spec)(fresh_named())).frozen().code)
    assert frozen.surroundings is not None
    assert frozen.surroundings.arguments == {"settings": "x"}
    assert {"/elsewhere", str(project.directory)} <= set(frozen.search_path)


def fresh_named() -> Any:
    """Return a new class to declare."""
    return fresh(Class)


def test_arguments_that_cannot_travel_are_named() -> None:
    """Before anything has started."""
    declared = serve.backend("b", init_args=[(n for n in "x")])(fresh(Class))
    with pytest.raises(SerializationError, match=r"init_args\[0\]"):
        only(declared).frozen()


# Endpoints on their own


def test_a_module_gives_the_endpoints_that_it_declares(project: Project) -> None:
    """A call at its top level is enough; the same module loaded again has them once."""
    project.write("shop.backends", "import serve_bridge as serve\nserve.endpoint('e', route='/e', traffic={'b': 1})")
    (found,) = declared_in("shop.backends")
    assert isinstance(found, EndpointDeclaration)
    assert (found.name, found.route, found.traffic) == ("e", "/e", {"b": 1.0})
    (again,) = declared_in(importlib.reload(project.load("shop.backends")))
    assert again is not found


WRONG_ENDPOINTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rout": "/x"}, TypeError, "endpoint.. has no option 'rout'; did you mean 'route'"),
    ({"name": "a b"}, ConfigError, "endpoint name"),
    ({"route": "x"}, TypeError, "/"),
    ({"methods": "GET"}, TypeError, "methods"),
    ({"timeout_s": -1}, ConfigError, "timeout_s"),
    ({"traffic": {"b": 0.5}}, ConfigError, "sum to 1"),
    ({"traffic": ["b"]}, TypeError, "traffic must be a dict"),
    ({"shadows": {"b": 2}}, TypeError, "shadow"),
    ({"shadows": ["b"]}, TypeError, "shadows must be a dict"),
]


@pytest.mark.parametrize(("options", "error", "text"), WRONG_ENDPOINTS)
def test_a_wrong_option_of_an_endpoint_is_an_error_where_it_is_written(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Not where it is deployed."""
    with pytest.raises(error, match=text):
        serve.endpoint(**{"name": "e", **options})


def test_an_endpoint_needs_a_backend() -> None:
    """One that is declared with it, or one that its traffic names."""
    with pytest.raises(ConfigError, match=r"endpoint 'e' .*line \d+\) has no backend"):
        declared_in(serve.endpoint("e"))
    assert len(declared_in(serve.endpoint("e", traffic={"b": 1}))) == 1


def test_an_endpoint_is_declared_once(project: Project) -> None:
    """Both places are named."""
    with pytest.raises(ConfigError, match="endpoint 'e' is declared twice"):
        declared_in(serve.endpoint("e", traffic={"b": 1}), serve.endpoint("e", traffic={"b": 1}))
    project.write("twice", "import serve_bridge as serve\nserve.endpoint('e')\nserve.endpoint('e')")
    told = r"twice\.py, line 3: ConfigError: .* declared twice: by serve\.endpoint in twice, line 2 and .* line 3"
    with pytest.raises(ImportError, match=told):
        declared_in("twice")
    described = serve.backend("b", endpoint="e", route="/b")(fresh())
    with pytest.raises(ConfigError, match="gets a route, methods or a time twice"):
        declared_in(described, serve.endpoint("e", route="/e"))
    assert len(declared_in(described, serve.endpoint("e", traffic={"b": 1}))) == 2
