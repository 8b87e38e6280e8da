"""Instances of serve_bridge for rows with code of their own, one after another on one cluster.

Rule 1: a round starts Ray once for all of these rows, and only if the plan has such a row.
Rule 2: an instance ends before the next instance starts. If an instance fails to start, the whole cluster ends, so
    that the next instance gets a fresh cluster.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from benchmarks.contenders.contender import Entry, OnRay
from benchmarks.contenders.stage import Stage, StageError

ARRANGE_LIMIT_S: Final = 120.0
_CLUSTER: Final = Entry("instances", "serve_bridge", "benchmarks.contenders.instances:Cluster")


class Cluster(OnRay):
    """The far side, in a stage: starts the instances."""

    def arrange(self, build: str, arguments: dict[str, Any]) -> Any:
        """Replace the last instance by the instance of `module:function`, and return the function's result."""
        import serve_bridge as serve

        serve.shutdown()
        module, _, name = build.partition(":")
        return getattr(importlib.import_module(module), name)(**arguments)


class Instances:
    """The near side: starts the cluster at first use."""

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def arrange(self, build: Callable[..., Any], **arguments: Any) -> Any:
        """Replace the last instance by the instance of *build*, a function of a module, and return its result as JSON.

        Raises:
            StageError: The function raised, or the cluster did not start.
        """
        self._stage = self._stage or Stage(_CLUSTER)
        name = f"{build.__module__}:{build.__name__}"
        try:
            return self._stage.ask("arrange", limit_s=ARRANGE_LIMIT_S, build=name, arguments=arguments)
        except StageError:
            self.stop()
            raise

    def serving_pids(self) -> frozenset[int]:
        """Return the ids of all processes of the cluster and the instance."""
        return self._stage.serving_pids() if self._stage else frozenset()

    def stop(self) -> None:
        """End the instance and the cluster."""
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.stop()

    def __enter__(self) -> Instances:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
