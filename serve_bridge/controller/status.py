"""Collects the status of the instance from the parts of its controller."""

from __future__ import annotations

from typing import TypedDict

from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.deployments import Deployments
from serve_bridge.controller.lifecycle import ReplicaState
from serve_bridge.controller.proxies import Proxies
from serve_bridge.controller.repairs import Repairs
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.tracked_replica import SERVING
from serve_bridge.controller.update_progress import UpdateProgress
from serve_bridge.instance.instance_status import BackendStatus, DeploymentStatus, EndpointStatus, InstanceStatus
from serve_bridge.specs import BackendSpec, EndpointSpec, Origin, UnfinishedDeployment


class Status:
    """The source of the status of one instance."""

    def __init__(
        self,
        instance: str,
        state: CommittedState,
        replicas: Replicas,
        proxies: Proxies,
        repairs: Repairs,
        deployments: Deployments,
        progress: UpdateProgress,
    ) -> None:
        self._instance = instance
        self._state = state
        self._replicas = replicas
        self._proxies = proxies
        self._repairs = repairs
        self._deployments = deployments
        self._progress = progress

    async def collect(self) -> InstanceStatus:
        """Return the status now. If the runtime does not answer in time, the last known nodes are shown."""
        wanted = self._state.wanted
        return InstanceStatus(
            name=self._instance,
            nodes=await self._proxies.nodes(),
            http_urls=self._proxies.urls,
            proxies=await self._proxies.statistics(),
            table_version=self._state.version,
            backends={name: self._of_backend(backend) for name, backend in wanted.backends.items()},
            endpoints={name: _of_endpoint(endpoint) for name, endpoint in wanted.endpoints.items()},
            deployments=[self._of_deployment(each) for each in wanted.unfinished.values()],
        )

    def _of_backend(self, backend: BackendSpec) -> BackendStatus:
        failures = self._repairs.start_failures[backend.name]
        ready = self._replicas.of(backend.name, ReplicaState.READY)
        short = len(ready) < backend.config.num_replicas
        # A replica may die soon after it is ready, so a failure is over only when the ready replicas have lasted.
        over = not short and all(replica.has_lasted() for replica in ready)
        origin = backend.origin or Origin("")
        return BackendStatus(
            wanted=backend.config.num_replicas,
            replicas={r.id: r.described for r in self._replicas if r.backend == backend.name},
            failure=(failures.reason or None) if short or (failures.is_news() and not over) else None,
            failed=failures.are_many() and not over,
            last_end=failures.last_end(),
            **_deployed(backend.origin),
            fingerprint=origin.fingerprint,
            declared=list(origin.declared),
            search_path=list(origin.search_path),
            update=self._progress.of(backend.name, self._replicas.of(backend.name, *SERVING)),
        )

    def _of_deployment(self, deployment: UnfinishedDeployment) -> DeploymentStatus:
        return DeploymentStatus(
            project=deployment.project,
            begun_at=deployment.time,
            running=self._deployments.runs(deployment.project),
            begun=list(deployment.begun),
            left=list(deployment.left),
            failure=deployment.failure or None,
        )


def _of_endpoint(endpoint: EndpointSpec) -> EndpointStatus:
    return EndpointStatus(
        route=endpoint.route,
        methods=list(endpoint.methods),
        timeout_s=endpoint.timeout_s,
        traffic=dict(endpoint.policy.weights),
        shadows=dict(endpoint.policy.shadows),
        **_deployed(endpoint.origin),
    )


class _Deployed(TypedDict):
    owner: str | None
    version: str | None
    deployed_at: float | None


def _deployed(origin: Origin | None) -> _Deployed:
    """Return by which project something was deployed, in which version, and when; None: it was made by hand."""
    if origin is None:
        return {"owner": None, "version": None, "deployed_at": None}
    return {"owner": origin.owner, "version": origin.version or None, "deployed_at": origin.time}
