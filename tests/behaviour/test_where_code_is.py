"""Code of a script, of `python -m package.module` and of a notebook, which is imported or carried from where it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.notebooks import Notebook, notebook_in
from tests.support.programs import ROOT
from tests.support.projects import Project, project_in

HELPER = """
    def word():
        return "found"
"""
BACKENDS = """
    import serve_bridge as serve

    @serve.backend("{name}")
    class Model:
        def __call__(self, request):
            import {helper}
            return {helper}.word()
"""
USE = """
    import sys
    import serve_bridge as serve
    import {helper} as outside

    class Local:
        def __init__(self, given=None):
            self.given = given

        def __call__(self, request):
            import {helper}
            return [{helper}.word(), outside.word()]

    def main(name, how):
        client = serve.connect()
        if how == "create":
            client.create_backend(name, Local, outside.word)
        elif how == "update":
            client.update_backend(name, Local)
        elif how == "path":
            client.create_backend(name, "{backends}:Model")
        elif how == "deploy":
            serve.deploy(serve.backend(name)(Local))

    if __name__ == "__main__":
        main(*sys.argv[1:])
"""


@pytest.fixture
def address(client: serve.Client) -> Iterator[dict[str, str]]:
    """The environment of a process that finds the instance; afterwards nothing of what it did is left."""
    yield {**os.environ, "SERVE_BRIDGE_ADDRESS": client.address, "PYTHONPATH": str(ROOT)}
    for endpoint in client.list_endpoints():
        client.delete_endpoint(endpoint)
    for backend in client.list_backends():
        client.delete_backend(backend)


class Place:
    """A project whose modules have names that nothing else in this run has."""

    def __init__(self, project: Project, names: Callable[[str], str], environment: dict[str, str]) -> None:
        self.project = project
        self.environment = environment
        self.helper, self.package, self.name = (names(kind).replace("-", "_") for kind in ("helper", "package", "name"))
        backends = f"{self.package}.backends"
        project.write(self.helper, HELPER)
        project.write(backends, BACKENDS.format(helper=self.helper, name=self.name))
        use = USE.format(helper=self.helper, backends=backends)
        project.write(f"{self.package}.use", use)
        project.write("script", use)

    def run(self, *command: str, directory: Path | None = None) -> None:
        """Run Python with *command* in the project, or in *directory*."""
        where = directory or self.project.directory
        subprocess.run([sys.executable, *command], cwd=where, env=self.environment, check=True, timeout=60)


@pytest.fixture
def place(tmp_path: Path, names: Callable[[str], str], address: dict[str, str]) -> Iterator[Place]:
    """A project that the instance does not know."""
    path = list(sys.path)
    (tmp_path / "project").mkdir()
    with project_in(tmp_path / "project") as project:
        sys.path[:] = path  # only the processes of the test know it
        yield Place(project, names, address)


@pytest.fixture
def notebook(place: Place) -> Iterator[Notebook]:
    """A notebook in the project."""
    with notebook_in(place.project.directory, place.environment) as notebook:
        yield notebook


def answer(client: serve.Client, backend: str, *data: Any) -> Any:
    """Return what *backend* answers, behind an endpoint of its own unless it has one."""
    if backend not in client.list_endpoints():
        client.create_endpoint(backend, backend=backend)
    return client.get_handle(backend).call(*data)


@pytest.mark.parametrize("how", ["script", "module"])
def test_code_of_a_program_finds_what_lies_beside_it(client: serve.Client, place: Place, how: str) -> None:
    """With `create_backend`, `update_backend` and `deploy`, as the program itself does."""
    start = ["-m", f"{place.package}.use"] if how == "module" else [str(place.project.directory / "script.py")]
    directory = None if how == "module" else Path("/")
    for name, change in ((place.name, "create"), (place.name, "update"), (f"{place.name}_declared", "deploy")):
        place.run(*start, name, change, directory=directory)
        assert answer(client, name) == ["found", "found"]


def test_an_import_path_is_found_where_the_caller_finds_it(client: serve.Client, place: Place) -> None:
    """The replica imports it from there."""
    place.run("-m", f"{place.package}.use", place.name, "path")
    assert answer(client, place.name) == "found"


def test_a_notebook_creates_backends(client: serve.Client, place: Place, notebook: Notebook) -> None:
    """Their code imports what lies beside the notebook."""
    notebook.run(f"""
        import serve_bridge as serve
        import {place.helper} as outside
        client = serve.connect()
        def here(request):
            import {place.helper}
            return [outside.word(), {place.helper}.word()]
        client.create_backend("{place.name}", here)
    """)
    assert answer(client, place.name) == ["found", "found"]
    notebook.run(f"""
        from {place.package}.backends import Model
        client.update_backend("{place.name}", Model)
    """)
    assert answer(client, place.name) == "found"


CELL = """
    @serve.backend("{name}")
    class Cell:
        factor = 2
        def __call__(self, request):
            return scaled(request.data) * self.factor
"""
SCALED = "def scaled(value): return value * FACTOR"


def test_a_cell_that_runs_again_deploys_only_changes(client: serve.Client, place: Place, notebook: Notebook) -> None:
    """A change is another class body, another function that it calls, or another value of a variable there."""
    deploy = "print(*[change.kind for change in serve.deploy(Cell).changes])"
    cell = CELL.format(name=place.name)
    notebook.run(f"import serve_bridge as serve\nserve.connect()\nFACTOR = 3\n{SCALED}")
    notebook.run(cell)
    assert notebook.run(deploy) == "create backend create endpoint"
    for again in (cell, SCALED, "FACTOR = 3"):
        notebook.run(again)
        assert notebook.run(deploy) == ""
    assert answer(client, place.name, 1) == 6
    for changed in ("FACTOR = 4", SCALED.replace("*", "+"), cell.replace("factor = 2", "factor = 5")):
        notebook.run(changed)
        assert notebook.run(deploy) == "update backend"
    assert answer(client, place.name, 1) == 25
