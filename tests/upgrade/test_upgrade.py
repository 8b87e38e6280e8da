"""A running engine on Ray is replaced by today's version under load, and nothing is lost."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import serve_bridge as serve
from serve_bridge.wire.handshake import VERSION
from tests.adapters.support.pages import blocks_of
from tests.faults.support.load import Load
from tests.faults.support.oracle import Run, summary, violations
from tests.support.programs import ROOT
from tests.support.ray_head import RayHead, ray_head
from tests.upgrade.support.engine import Engine
from tests.upgrade.support.releases import with_release

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(300)]

START = """
import sys
import serve_bridge as serve
from tests.faults.support.backends import Recorder
from tests.upgrade.support.backends import wire_version

client = serve.connect(name="upgraded")
client.create_backend("transfer", Recorder, sys.argv[1], config={"num_replicas": 2})
client.create_endpoint("transfer", backend="transfer", route="/transfer", methods=["GET", "POST"])
client.create_backend("version", wire_version)
client.create_endpoint("version", backend="version")
client.close()
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster whose nodes have one version of the package at a time.

    Attributes:
        head: Its only node.
        site: Link to the version of the package that its new processes import.
    """

    head: RayHead
    site: Path

    def install(self, release: Path) -> None:
        """Let processes import *release* from now on, as an installation does."""
        draft = self.site.with_name("draft")
        draft.symlink_to(release)
        os.replace(draft, self.site)


@pytest.fixture
def cluster(previous: Path, nothing_left: None, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with the previous version, and with a runtime directory of its own."""
    site = tmp_path / "site"
    site.symlink_to(previous)
    path = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="sb-") as directory:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("XDG_RUNTIME_DIR", directory)
        with ray_head(Path(directory), path) as head:
            yield Cluster(head, site)


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
    """The controller, each replica and each proxy get a successor of the new version, and later one of the same."""
    journal, ray_address = tmp_path / "journal", cluster.head.address
    this = ("--name", "upgraded", "--ray-address", ray_address)
    begun = run(previous, "serve-bridge", "start", "--port", "0", *this)
    assert begun.returncode == 0, begun.stderr
    assert run(previous, "python", "-c", START, str(journal)).returncode == 0
    client = serve.connect(name="upgraded")
    try:
        before = client.status()
        engine = Engine(client.address, client.http_urls, "")
        (command,) = (block.text.split() for block in blocks_of(ROOT / "docs" / "upgrade.md") if block.language == "sh")
        early = run(ROOT, *command, *this)
        assert "has an earlier version of serve_bridge" in early.stderr
        assert client.get_handle("version").call() == 2
        with Load(engine, "transfer", tmp_path / "load", environment=with_release(previous)) as load:
            load.wait_for_more(100)
            cluster.install(ROOT)
            done = run(ROOT, *command, *this)
            load.wait_for_more(100)
            middle = client.status()
            again = run(ROOT, *command, *this)
            load.wait_for_more(100)
        assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
        result = Run.read(journal, load.log)
        assert violations(result) == {}
        assert result.failed() == [], summary(result.outcomes)
        after = client.status()
        assert client.get_handle("version").call() == VERSION
        for earlier, later in ((before, middle), (middle, after)):
            for backend in ("transfer", "version"):
                old, new = (set(status["backends"][backend]["replicas"]) for status in (earlier, later))
                assert (len(new), new & old) == (len(old), set())
            assert len(later["proxies"]) == 1
            assert later["proxies"].keys().isdisjoint(earlier["proxies"])
        assert after["http_urls"] == before["http_urls"]
    finally:
        client.shutdown()
