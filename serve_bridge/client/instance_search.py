"""The search for a running instance, as `connect`, the adapters and the command lines make it."""

from __future__ import annotations

import os
from collections.abc import Callable

from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.config.names import check_name
from serve_bridge.errors import NotConnected
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.liveness import is_alive
from serve_bridge.process.monkey_patches import check_not_patched


def link_to(found: Instance, address: str | None) -> InstanceLink:
    """Return a new link to *found*, which was looked for at *address*."""
    return InstanceLink(found, address=address or os.environ.get(instances.ADDRESS_VARIABLE))


def find_instance(address: str | None, name: str, is_alive: Callable[[Instance], bool] = is_alive) -> Instance:
    """Return the running instance for `connect`; *is_alive* says whether it runs.

    Raises:
        NotConnected, ConfigError: As `connect`.
    """
    check_name("instance", name)
    check_not_patched()
    found = instances.find(address, name)
    if found.directory and not is_alive(found):  # one without a directory has just answered
        raise NotConnected(
            f"instance {found.name!r} at {found.address} does not answer; looked in: the address argument, "
            f"{instances.ADDRESS_VARIABLE}, {instances.discovery_file(name)} (the first one given counts); start it, "
            "or correct the address"
        )
    return found
