"""Classes of the caller's `__main__`: exceptions that a backend raises, and instances that go there and back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.notebooks import notebook_in
from tests.support.programs import ROOT

PROGRAM = """
    import asyncio, os
    import serve_bridge as serve

    class Boom(Exception):
        pass

    class Thing:
        def __init__(self, number):
            self.number = number

    class Model:
        def __call__(self, request):
            raise Boom("from the backend")

        def back(self, thing):
            assert type(thing) is Thing
            return Thing(thing.number + 1)

        def many(self, thing):
            yield Thing(thing.number + 1)
            raise Boom("from the generator")

    async def over_loop(handle):
        try:
            await handle.acall()
        except Boom as error:
            return type(await handle.options(method_name="back").acall(Thing(1))) is Thing
        return False

    def by_call(handle):
        try:
            handle.call()
        except Boom as error:
            return type(handle.options(method_name="back").call(Thing(1))) is Thing
        return False

    def by_stream(handle):
        items = handle.options(method_name="many").stream(Thing(1))
        first = next(items)
        try:
            next(items)
        except Boom:
            return type(first) is Thing
        return False

    def by_remote(handle):
        import ray
        try:
            ray.get(handle.remote())
        except Boom:
            return type(ray.get(handle.options(method_name="back").remote(Thing(1)))) is Thing
        return False

    def main():
        name = os.environ["BACKEND"]
        client = serve.connect()
        client.create_backend(name, Model, config={"exposed_methods": ["back", "many"]})
        client.create_endpoint(name, backend=name)
        handle = client.get_handle(name)
        held = [by_call(handle), by_stream(handle), asyncio.run(over_loop(handle))]
        if address := os.environ.get("CLUSTER"):
            import ray
            ray.init(address=address, log_to_driver=False, configure_logging=False)
            held += [by_remote(handle), by_call(handle)]
        client.delete_endpoint(name)
        client.delete_backend(name)
        print(*held)
"""


@pytest.fixture
def environment(client: serve.Client, runtime: str, request: pytest.FixtureRequest, names: Any) -> dict[str, str]:
    """What the program finds in its environment."""
    found = {"SERVE_BRIDGE_ADDRESS": client.address, "PYTHONPATH": str(ROOT), "BACKEND": names("main")}
    if runtime == "ray":
        found["CLUSTER"] = request.getfixturevalue("ray_cluster").get_runtime_context().gcs_address
    return {**os.environ, **found}


def test_a_script_gets_its_own_classes_back(environment: dict[str, str], tmp_path: Path) -> None:
    """By each way of calling, exceptions in `except` clauses too."""
    script = tmp_path / "script.py"
    script.write_text(f"{textwrap.dedent(PROGRAM)}\nmain()\n")
    ran = subprocess.run([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert set(ran.stdout.split()) == {"True"}


def test_a_notebook_gets_its_own_classes_back(environment: dict[str, str], tmp_path: Path) -> None:
    """On a thread, since the notebook's own runs an event loop."""
    with notebook_in(tmp_path, environment) as notebook:
        notebook.run(PROGRAM)
        assert set(notebook.run("await asyncio.to_thread(main)").split()) == {"True"}
