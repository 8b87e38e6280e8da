"""Import paths: whose they are, what they name, and where an import begins."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve_bridge.errors import ConfigError
from serve_bridge.user_code.import_path import check_import_path, import_path_of, resolve
from serve_bridge.user_code.search_path import extend_search_path, search_path_of
from tests.support.programs import ROOT
from tests.support.projects import Project, project_in


class Outer:
    """Has a class inside."""

    class Inner:
        """Is one."""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project."""
    with project_in(tmp_path) as project:
        yield project


@pytest.mark.parametrize("target", [Outer, Outer.Inner, json.dumps, msgspec.Struct])
def test_a_path_leads_back(target: Any) -> None:
    """Also to what is inside a class."""
    path = import_path_of(target)
    assert path is not None
    assert resolve(path) is target


def local() -> Any:
    """Return a function that no path leads to."""

    def inner() -> None: ...

    return inner


def hidden() -> None:
    """Is hidden by another object of its name."""


original, hidden = hidden, local()  # type: ignore[assignment]  # that is the point
made = types.FunctionType(local.__code__, {"__name__": "__main__"}, "made")


@pytest.mark.parametrize("target", [local(), lambda: None, original, made])
def test_what_no_path_leads_to_has_none(target: Any) -> None:
    """It has to travel by value."""
    assert import_path_of(target) is None


def test_a_module_loaded_under_another_name_has_no_path(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of that name would not find it."""
    project.write("real", "def code(): ...")
    spec = importlib.util.spec_from_file_location("alias", project.directory / "real.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "alias", module)
    spec.loader.exec_module(module)
    assert import_path_of(module.code) is None
    assert search_path_of("alias") == ()


@pytest.mark.parametrize("module", ["single", "shop.deep.backends"])
def test_an_import_begins_above_the_outermost_package(project: Project, module: str) -> None:
    """However deep the module lies in it; whether or not it was loaded."""
    project.write(module, "")
    assert search_path_of(module) == (str(project.directory),)
    project.load(module)
    assert search_path_of(module) == (str(project.directory),)


def test_a_package_without_an_init_file_is_found(project: Project) -> None:
    """Django apps are sometimes so."""
    (project.directory / "namespace").mkdir()
    (project.directory / "namespace" / "backends.py").touch()
    assert search_path_of("namespace.backends") == (str(project.directory),)


@pytest.mark.parametrize("module", ["json", "msgspec", "sys", "serve_bridge.adapters.flask", "no_such_module"])
def test_what_every_process_finds_needs_no_directory(module: str) -> None:
    """And what nobody finds has none."""
    assert search_path_of(module) == ()


def test_new_directories_come_first_and_known_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of those that a process has is its own."""
    monkeypatch.setattr(sys, "path", ["/a", "/b"])
    extend_search_path(["/b", "/c", "/d"])
    assert sys.path == ["/c", "/d", "/a", "/b"]


@pytest.mark.parametrize("path", ["a:b", "a.b:c.d", "a_1:_b"])
def test_an_import_path_passes(path: str) -> None:
    """As text; nothing is imported."""
    assert check_import_path(path) == path


@pytest.mark.parametrize("path", ["", "a", "a:", ":b", "a:b:c", "a b:c", "a..b:c", ".a:b", "1:b", "a:b()"])
def test_other_text_is_refused(path: str) -> None:
    """It says how a path reads."""
    with pytest.raises(ConfigError, match=r"package\.module:Attr"):
        check_import_path(path)


PROGRAM = """
    import json, sys
    from serve_bridge.user_code.search_path import search_path_of
    print(json.dumps(search_path_of("__main__")))
"""


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["shop/run.py"], ["{project}/shop"]),
        (["-m", "shop.run"], ["{project}"]),
        (["-m", "shop"], ["{project}"]),
        (["shop"], ["{project}/shop"]),
        (["-c", textwrap.dedent(PROGRAM)], ["{project}"]),
    ],
    ids=["script", "module", "package", "directory", "text"],
)
def test_imports_of_a_program_begin_where_python_begins_them(project: Project, command: list[str], found: Any) -> None:
    """However it is started; the directories of PYTHONPATH come behind."""
    project.write("shop.run", PROGRAM)
    project.write("shop.__main__", PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, *command], cwd=project.directory, env=environment, stdout=subprocess.PIPE, check=True
    )
    expected = [each.format(project=project.directory) for each in found]
    assert json.loads(ran.stdout) == [*expected, str(ROOT)]


def test_the_current_directory_is_no_new_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that looks there does so by an empty name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [""])
    extend_search_path([str(tmp_path)])
    assert sys.path == [""]
