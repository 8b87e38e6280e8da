"""Deploying to an instance that was started elsewhere, by a process that knows no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.programs import ROOT, run_program
from tests.support.projects import Project, project_in

pytestmark = pytest.mark.ray

START = """
    import os, sys
    os.chdir("/")
    import serve_bridge as serve
    client = serve.start(name=sys.argv[1], address=sys.argv[2], detached=True, http_options={"location": "NoServer"})
    print(client.address, flush=True)
"""
DEPLOY = """
    import sys
    directory, address = sys.argv[1:]
    sys.path.insert(0, directory)
    import serve_bridge as serve
    print(*[change.kind for change in serve.deploy("shop.backends", client=serve.connect(address)).changes])
    assert "ray" not in sys.modules
"""
SCRIPT = """
    import sys
    import serve_bridge as serve

    @serve.backend("script", init_args=["word"])
    class Script:
        def __init__(self, word): self.word = word
        def __call__(self, request): return self.word

    @serve.backend("other", surroundings="frame:Frame")
    def other(request):
        from frame import ready  # lies beside the script
        return ready

    if __name__ == "__main__":
        client = serve.connect(sys.argv[1])
        print(*[change.kind for change in serve.deploy("__main__", client=client).changes])
"""
BACKENDS = """
    import serve_bridge as serve
    from shop import words

    @serve.backend("greeter", endpoint="greet")
    class Greeter:
        def __call__(self, request):
            return words.WORD + " {word}"

        async def later(self):
            return 1
"""
FRAME = """
    ready = []
    class Frame:
        def setup(self): ready.append("set up")
        def around(self):
            from contextlib import nullcontext
            return nullcontext()
        def around_async(self): ...
"""


@pytest.fixture
def address(ray_cluster: Any, names: Any) -> Any:
    """The address of an instance that another process has started, in another directory, and left."""
    address = run_program(START, names("detached"), ray_cluster.get_runtime_context().gcs_address).strip()
    yield address
    serve.connect(address).shutdown()


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """A project, in a directory that the instance does not know."""
    with project_in(tmp_path) as project:
        project.write("shop.words", "WORD = 'hello'")
        project.write("shop.backends", BACKENDS.format(word="ada"))
        yield project


def test_edited_code_is_deployed(address: str, project: Project) -> None:
    """Once: the third deployment finds nothing to do."""
    directory = str(project.directory)
    assert run_program(DEPLOY, directory, address) == "create backend create endpoint\n"
    client = serve.connect(address)
    assert client.get_handle("greet").call() == "hello ada"
    project.write("shop.backends", BACKENDS.format(word="grace"))
    assert run_program(DEPLOY, directory, address) == "update backend\n"
    assert client.get_handle("greet").call() == "hello grace"
    assert run_program(DEPLOY, directory, address) == "\n"
    client.close()


def test_a_replacement_finds_the_code_too(address: str, project: Project) -> None:
    """Long after the process that deployed has gone."""
    run_program(DEPLOY, str(project.directory), address)
    client = serve.connect(address)
    client.update_backend_config("greeter", {"num_replicas": 2})
    handle = client.get_handle("greet")
    assert {handle.call() for _ in range(8)} == {"hello ada"}
    client.close()


def test_a_script_deploys_itself(address: str, project: Project) -> None:
    """By value, and with its directory: nobody can import `__main__`."""
    project.write("frame", FRAME)
    project.write("script", SCRIPT)
    command = [sys.executable, str(project.directory / "script.py"), address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for expected in ("create backend create backend create endpoint create endpoint\n", "\n"):
        ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        assert ran.stdout == expected
    client = serve.connect(address)
    assert client.get_handle("script").call() == "word"
    assert client.get_handle("other").call() == ["set up"]
    client.close()
