"""A running engine on two nodes of Ray is replaced by today's version under load, and nothing is lost."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import serve_bridge as serve
from tests.adapters.support.pages import blocks_of
from tests.e2e.support.web_servers import WebServer, gunicorn
from tests.faults.support.load import Load
from tests.faults.support.oracle import Run, summary, violations
from tests.support.programs import ROOT
from tests.support.ray_head import RayHead, ray_head
from tests.upgrade.support.engine import Engine
from tests.upgrade.support.releases import PREVIOUS_VERSION, with_release

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(600)]

HEAD, SECOND = "127.0.0.1", "127.0.0.2"
WORKERS = gunicorn("tests.e2e.support.apps.flask_app:app", "--worker-class", "gthread", "--threads", "4")

START = """
import sys
import serve_bridge as serve
from tests.faults.support.backends import Recorder
from tests.upgrade.support.backends import who_serves

client = serve.connect(name="upgraded")
for node in ("head", "second"):
    options = {"resources": {node: 0.001}}
    client.create_backend(f"transfer-{node}", Recorder, sys.argv[1], ray_actor_options=options)
    client.create_backend(node, who_serves, ray_actor_options=options)
    client.create_endpoint(node, backend=node)
client.create_endpoint("transfer", backend="transfer-head", route="/transfer", methods=["GET", "POST"])
client.set_traffic("transfer", {"transfer-head": 0.5, "transfer-second": 0.5})
client.close()
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster whose nodes have one version of the package at a time.

    Attributes:
        ray: Its nodes.
        sites: Link to the version of the package that new processes of a node import, by the node's address.
    """

    ray: RayHead
    sites: Mapping[str, Path]

    def install(self, release: Path, node: str) -> None:
        """Let processes of *node* import *release* from now on, as an installation does."""
        draft = self.sites[node].with_name("draft")
        draft.symlink_to(release)
        os.replace(draft, self.sites[node])


@pytest.fixture
def cluster(previous: Path, nothing_left: None, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with the previous version, and with a runtime directory of its own."""
    sites = {node: tmp_path / f"site-{node}" for node in (HEAD, SECOND)}
    paths = {}
    for node, site in sites.items():
        site.symlink_to(previous)
        paths[node] = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="sb-") as directory:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("XDG_RUNTIME_DIR", directory)
        with ray_head(Path(directory), paths[HEAD]) as head:
            head.join(SECOND, "second", paths[SECOND])
            yield Cluster(head, sites)


def run(release: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run *command*, a program beside Python, with the package in *release*."""
    program, *arguments = command
    return subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=release.parent,  # not that of this process: Ray's workers look there for modules first
        env={**os.environ, **with_release(release)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_an_engine_is_replaced_under_load(cluster: Cluster, previous: Path, tmp_path: Path) -> None:
    """The controller, each replica and each proxy get a successor of the new version, and later one of the same.

    The load comes from handles, over HTTP, and through web workers of the previous version, which stay connected.
    """
    journal = tmp_path / "journal"
    this = ("--name", "upgraded", "--ray-address", cluster.ray.address)
    begun = run(previous, "serve-bridge", "start", "--port", "0", *this)
    assert begun.returncode == 0, begun.stderr
    started = run(previous, "python", "-c", START, str(journal))
    assert started.returncode == 0, started.stderr
    client = serve.connect(name="upgraded")
    old_workers = {**os.environ, **with_release(previous), "SERVE_BRIDGE_ADDRESS": client.address}
    try:
        before = client.status()
        engine = Engine(client.address, client.http_urls, PREVIOUS_VERSION)
        (command,) = (block.text.split() for block in blocks_of(ROOT / "docs" / "upgrade.md") if block.language == "sh")
        cluster.install(ROOT, HEAD)
        early = run(ROOT, *command, *this)
        assert f"node {SECOND} cannot be upgraded" in early.stderr
        assert "has an earlier version of serve_bridge" in early.stderr
        assert versions(client) == [PREVIOUS_VERSION] * 2
        with WebServer(WORKERS, tmp_path / "log", directory=tmp_path, environment=old_workers) as server:
            workers = server.ready()
            assert {fact["version"] for fact in workers.values()} == {PREVIOUS_VERSION}
            forwarded = Load(
                replace(engine, http_urls=[server.url]),
                "transfer",
                tmp_path / "forwarded",
                ways=("get-anew", "post-anew"),
                rate=40,
                environment=old_workers,
            )
            load = Load(engine, "transfer", tmp_path / "load", rate=80, environment=with_release(previous))
            with load, forwarded:
                load.wait_for_more(100)
                cluster.install(ROOT, SECOND)
                done = run(ROOT, *command, *this)
                load.wait_for_more(100)
                middle = client.status()
                again = run(ROOT, *command, *this)
                load.wait_for_more(100)
                forwarded.wait_for_more(50)
            assert server.ready().keys() == workers.keys()
        assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
        assert f"instance upgraded has version {serve.__version__}\n" in done.stdout
        result = Run.read(journal, load.log, forwarded.log)
        assert violations(result) == {}
        assert result.failed() == [], summary(result.outcomes)
        after = client.status()
        assert versions(client) == [serve.__version__] * 2
        for earlier, later in ((before, middle), (middle, after)):
            for backend, status in later["backends"].items():
                assert (len(status["replicas"]), status["update"]) == (1, None)
                assert status["replicas"].keys().isdisjoint(earlier["backends"][backend]["replicas"])
            assert len(later["proxies"]) == 1
            assert later["proxies"].keys().isdisjoint(earlier["proxies"])
        assert after["http_urls"] == before["http_urls"]
    finally:
        client.shutdown()


def versions(client: serve.Client) -> list[str]:
    """Return the version of the replicas on each of the two nodes."""
    found = {node: version for version, node in (client.get_handle(name).call() for name in ("head", "second"))}
    return list(found.values())
