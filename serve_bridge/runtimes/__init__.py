"""The runtimes, which launch the processes of an instance: `ray` as actors, `local` as threads of this process."""

from __future__ import annotations

import sys
from typing import Any

from serve_bridge.errors import NotConnected
from serve_bridge.instance.instance import Instance


def remote_calls(instance: Instance) -> Any:
    """Return an object for calls to *instance* as Ray actor calls.

    Raises:
        NotConnected: *instance* does not run on Ray, or this process does not use Ray.
    """
    if instance.runtime != "ray":
        raise NotConnected(
            f"handle.remote() makes a Ray actor call, and instance {instance.name!r} runs with "
            f"runtime={instance.runtime!r}; use handle.call() or await handle.acall()"
        )
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        raise NotConnected(
            "handle.remote() returns a Ray ObjectRef, and this process does not use Ray; use handle.call() or "
            "await handle.acall(), which do not need it, or call ray.init() first"
        )
    from serve_bridge.runtimes.ray.remote_calls import RemoteCalls  # late: only callers of `remote` need Ray

    return RemoteCalls(instance)
