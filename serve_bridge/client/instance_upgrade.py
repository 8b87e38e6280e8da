"""The upgrade of a running instance to this version of the package, one process after another."""

from __future__ import annotations

from collections.abc import Callable

from serve_bridge.client.client import Client
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.config.names import check_name
from serve_bridge.instance.operations import Operation
from serve_bridge.management import time_limits
from serve_bridge.process.extras import require

Told = Callable[[str], None]
"""Gets a line about each completed step."""


def upgrade_instance(name: str, address: str | None, told: Told, *, may_close_port: bool = False) -> None:
    """Replace the controller, the replicas and the proxies of instance *name* by processes of this version.

    Callers lose nothing: each process has its successor before it drains.

    Args:
        name: The instance.
        address: The Ray cluster, as `start` takes it.
        told: Gets a line about each completed step.
        may_close_port: Whether the port of an earlier version's proxy may be closed until its successor listens.

    Raises:
        NotConnected: No instance of this name runs on the cluster.
        ConfigError: A node lacks this version, this version cannot read the checkpoint, or a port cannot stay open.
            Nothing has changed.
        BackendStartError: A backend cannot start with this version. Its old replicas still serve. A second call
            continues.
    """
    check_name("instance", name)
    require("upgrade", ["ray"])
    from serve_bridge.runtimes.ray.upgrade import restart_controller  # late: Ray is an extra, and slow to import

    link = InstanceLink(restart_controller(name, address, may_close_port=may_close_port))
    client = Client(link)
    try:
        told("controller  restarted")
        proxies = len(client.status()["proxies"])
        for backend, config in client.list_backends().items():
            link.operate(Operation.RENEW_BACKEND, backend, timeout_s=time_limits.to_update(config))
            told(f"backend     {backend} has new replicas")
        link.operate(Operation.RENEW_PROXIES, timeout_s=time_limits.to_renew_proxies(proxies))
        told("proxies     replaced")
    finally:
        client.close()
