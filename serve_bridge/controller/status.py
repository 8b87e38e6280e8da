"""The status of an instance, as `status` shows it."""

from __future__ import annotations

from typing import Any

from serve_bridge.controller.committed_state import Record
from serve_bridge.controller.deployments import Deployments
from serve_bridge.controller.lifecycle import ReplicaState
from serve_bridge.controller.proxies import Proxies
from serve_bridge.controller.repairs import Repairs
from serve_bridge.controller.replicas import Fleet
from serve_bridge.specs import Backend, Origin


class Status:
    """Collects the status of one instance."""

    def __init__(
        self, instance: str, record: Record, fleet: Fleet, proxies: Proxies, repairs: Repairs, deployments: Deployments
    ) -> None:
        self._instance = instance
        self._record = record
        self._fleet = fleet
        self._proxies = proxies
        self._repairs = repairs
        self._deployments = deployments

    async def collect(self) -> dict[str, Any]:
        """Return what runs: nodes, proxies and what they counted, what `_describe` says of each backend, endpoints."""
        return {
            "name": self._instance,
            "nodes": await self._proxies.nodes(),
            "http_urls": self._proxies.urls,
            "proxies": await self._proxies.statistics(),
            "table_version": self._record.version,
            "backends": {name: self._describe(backend) for name, backend in self._record.wanted.backends.items()},
            "endpoints": {
                name: {**described, **_of_origin(self._record.wanted.endpoints[name].origin)}
                for name, described in self._record.wanted.describe_endpoints().items()
            },
            "deployments": [
                {
                    "project": each.project,
                    "begun_at": each.time,
                    "running": self._deployments.runs(each.project),
                    "begun": list(each.begun),
                    "left": list(each.left),
                    "failure": each.failure or None,
                }
                for each in self._record.wanted.unfinished.values()
            ],
        }

    def _describe(self, backend: Backend) -> dict[str, Any]:
        """Return how many replicas a backend should have, those it has by state, why it lacks some, and its origin.

        Of a replica that was lost in the last minute "last_end" says how its process has ended.
        """
        replicas = {r.id: r.described for r in self._fleet.replicas.values() if r.backend == backend.name}
        setbacks = self._repairs.setbacks[backend.name]
        ready = self._fleet.of(backend.name, ReplicaState.READY)
        short = len(ready) < backend.config.num_replicas
        # One that dies as soon as it is ready has failed, although it is ready for a moment.
        over = not short and all(replica.has_lasted() for replica in ready)
        return {
            "wanted": backend.config.num_replicas,
            "replicas": replicas,
            "failure": (setbacks.reason or None) if short or (setbacks.is_news() and not over) else None,
            "failed": setbacks.failed() and not over,
            "last_end": setbacks.last_end(),
            **_of_origin(backend.origin),
            "fingerprint": backend.origin.fingerprint if backend.origin is not None else "",
            "declared": list(backend.origin.declared) if backend.origin is not None else [],
            "search_path": list(backend.origin.search_path) if backend.origin is not None else [],
        }


def _of_origin(origin: Origin | None) -> dict[str, Any]:
    """Return the project that deployed something, the version, and the time; None: it was made by hand."""
    if origin is None:
        return {"owner": None, "version": None, "deployed_at": None}
    return {"owner": origin.owner, "version": origin.version or None, "deployed_at": origin.time}
