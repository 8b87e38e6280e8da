"""Processes of two versions work together: an old worker with a new engine, and a new worker with an old engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import serve_bridge as serve
from tests.e2e.support.web_servers import WebServer, gunicorn, uvicorn
from tests.faults.support.load import Load
from tests.faults.support.oracle import Run, summary, violations
from tests.upgrade.support.engine import Engine, running
from tests.upgrade.support.releases import PREVIOUS_VERSION

APPS = "tests.e2e.support.apps"
FRONTS = {
    "flask": gunicorn(f"{APPS}.flask_app:app", "--worker-class", "gthread", "--threads", "4", route="/transfer"),
    "starlette": uvicorn(f"{APPS}.starlette_app:app", route="/transfer"),
}
OTHER = {"old": "new", "new": "old"}
VERSIONS = {"old": PREVIOUS_VERSION, "new": serve.__version__}


@dataclass(frozen=True)
class Pair:
    """A running engine of one version, and workers of the other version.

    Attributes:
        engine: The engine.
        journal: The journal of its backend.
        workers: The environment of the workers.
        version: The version of the workers.
    """

    engine: Engine
    journal: Path
    workers: Mapping[str, str]
    version: str

    def check(self, load: Load, count: int) -> None:
        """Wait for *count* requests, end *load*, and check the outcome of each request."""
        with load:
            load.wait_for_more(count)
        run = Run.read(self.journal, load.log)
        mine = replace(run, events=[event for event in run.events if event.id in set(run.sent)])
        assert violations(mine) == {}
        assert mine.failed() == [], summary(run.outcomes)


@pytest.fixture(scope="module", params=["old", "new"])
def pair(
    request: pytest.FixtureRequest,
    releases: Mapping[str, Mapping[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    """An engine of the given version, with workers of the other one."""
    journal = tmp_path_factory.mktemp("engine") / "journal"
    with running(f"mixed-{request.param}", journal, releases[request.param]) as engine:
        assert engine.version == VERSIONS[request.param]
        yield Pair(engine, journal, releases[OTHER[request.param]], VERSIONS[OTHER[request.param]])


def test_a_handle_of_the_other_version_loses_nothing(pair: Pair, tmp_path: Path) -> None:
    """Blocking calls, calls of a loop, and requests through the proxy."""
    pair.check(Load(pair.engine, "transfer", tmp_path / "load", environment=pair.workers), 150)


@pytest.mark.parametrize("front", FRONTS)
def test_a_web_worker_of_the_other_version_loses_nothing(pair: Pair, tmp_path: Path, front: str) -> None:
    """Forwarded requests with and without a body."""
    environment = {**pair.workers, "SERVE_BRIDGE_ADDRESS": pair.engine.address}
    with WebServer(FRONTS[front], tmp_path / "server.log", directory=tmp_path, environment=environment) as server:
        assert {fact["version"] for fact in server.ready().values()} == {pair.version}
        target = replace(pair.engine, http_urls=[server.url])
        load = Load(target, "transfer", tmp_path / front, ways=("get-anew", "post-anew"), environment=pair.workers)
        pair.check(load, 100)


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_command_of_the_other_version_ends_an_engine(
    releases: Mapping[str, Mapping[str, str]], tmp_path: Path, which: str
) -> None:
    """Today's engine keeps its state then, and the previous one has none."""
    with running(f"ended-{which}", tmp_path / "journal", releases[which]) as engine:
        command = [sys.executable, "-m", "serve_bridge", "shutdown", "--address", engine.address]
        ended = subprocess.run(command, env=dict(releases[OTHER[which]]), stdout=subprocess.PIPE, text=True, timeout=60)
        assert ended.stdout == f"instance ended-{which} has ended\n"


def test_an_operation_that_the_engine_lacks_is_refused(
    releases: Mapping[str, Mapping[str, str]], tmp_path: Path
) -> None:
    """The error says why."""
    with running("lacking", tmp_path / "journal", releases["old"]) as engine:
        command = [sys.executable, "-m", "serve_bridge", "export", "--address", engine.address]
        asked = subprocess.run(command, env=dict(releases["new"]), stderr=subprocess.PIPE, text=True, timeout=60)
        assert (asked.returncode, "it has an earlier version of serve_bridge" in asked.stderr) == (1, True)


MANAGE = """
import json, sys
import serve_bridge as serve

def code(request):
    return request.query_params["word"]

client = serve.connect(sys.argv[1])
client.create_backend("managed", code, config={"num_replicas": 1, "user_config": None})
client.update_backend("managed", code)
client.update_backend_config("managed", {"num_replicas": 2})
client.create_endpoint("managed", backend="managed", route="/managed", timeout_s=20)
client.create_backend("other", code)
client.set_traffic("managed", {"managed": 0.5, "other": 0.5})
client.shadow_traffic("managed", "other", 0.0)
word = client.get_handle("managed").call(word="spoken")
status = client.status()
found = [status["backends"]["managed"]["wanted"], client.get_backend_config("managed").num_replicas]
try:
    client.set_traffic("missing", {"managed": 1.0})
except serve.EndpointNotFound as error:
    found.append(error.endpoint)
client.delete_endpoint("managed")
client.delete_backend("managed")
client.delete_backend("other")
found.append([sorted(client.list_backends()), sorted(client.list_endpoints()), word])
client.close()
print(json.dumps(found))
"""


def test_an_operator_of_the_other_version_changes_everything(pair: Pair) -> None:
    """Operations, their answers and their errors are pickles with classes of the package."""
    command = [sys.executable, "-c", MANAGE, pair.engine.address]
    printed = subprocess.run(command, env=dict(pair.workers), stdout=subprocess.PIPE, check=True, timeout=90).stdout
    assert json.loads(printed) == [2, 2, "missing", [["transfer"], ["transfer"], "spoken"]]
