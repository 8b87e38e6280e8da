"""A backend that shows the version of the package in its replica, and the node of the replica."""

from __future__ import annotations

import sys


def who_serves(request: object) -> tuple[str, str]:
    """Return the version of the package in this replica, and the id of its node."""
    import ray

    return sys.modules["serve_bridge"].__version__, ray.get_runtime_context().get_node_id()
