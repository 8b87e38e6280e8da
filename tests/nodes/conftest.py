"""Three hosts: two Ray nodes and one for web workers, which has a copy of the instance's file and no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.nodes.hosts import Host, Switch, why_not


@dataclass(frozen=True)
class Cluster:
    """The hosts.

    Attributes:
        switch: What joins them.
        head: The Ray node with Ray's own control plane.
        worker: A Ray node on which this user has never logged in: nothing can be made in /run there.
        web: A host without Ray.
    """

    switch: Switch
    head: Host
    worker: Host
    web: Host

    def copy_address(self, path: str, host: Host, to: str, *, mode: int = 0o600) -> str:
        """Copy the instance's file at *path* of *host* to *to* on the web host; return *to*."""
        target = self.web.path(to)
        target.touch()
        target.chmod(mode)
        target.write_bytes(host.path(path).read_bytes())
        return to


RUNTIME_DIRECTORY = "/run/user/0"
LOGGED_IN = {"XDG_RUNTIME_DIR": RUNTIME_DIRECTORY}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three hosts that end with the module."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    if "CI" not in os.environ:
        pytest.importorskip("ray")
    switch = Switch()
    try:
        yield begin(switch)
    finally:
        switch.close()


def begin(switch: Switch) -> Cluster:
    """Return the hosts, with a Ray cluster on two of them."""
    head, worker, web = (switch.add(name) for name in ("head", "worker", "web"))
    head.path(RUNTIME_DIRECTORY).mkdir(parents=True, mode=0o700)
    worker.succeed("mount", "-o", "remount,ro", "/run")
    head.start_ray("--head", "--port=6379", "--include-dashboard=false", environment=LOGGED_IN)
    worker.start_ray(f"--address={head.address}:6379", '--resources={"worker": 8}', environment=LOGGED_IN)
    return Cluster(switch, head, worker, web)
