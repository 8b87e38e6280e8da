"""The operations of deployments: their turn, and their progress in the wanted state."""

from __future__ import annotations

from serve_bridge.controller.backend_changes import BackendChanges
from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.deployments import Deployments
from serve_bridge.specs import UnfinishedDeployment


class DeploymentChanges:
    """Begins deployments, notes how far they are, and ends them."""

    def __init__(self, state: CommittedState, backends: BackendChanges, deployments: Deployments) -> None:
        self._state = state
        self._backends = backends
        self._deployments = deployments

    async def begin_deployment(self, project: str, key: str, timeout_s: float) -> UnfinishedDeployment | None:
        """Wait for the turn of deployment *key* of *project*; return the project's unfinished deployment, if any.

        This waits also for the changes of an interrupted deployment to complete.
        """
        await self._deployments.wait(project, key, timeout_s)
        unfinished = self._state.wanted.unfinished.get(project)
        for change in unfinished.begun if unfinished is not None else ():
            await self._backends.completed(change.rpartition(" ")[2])
        return unfinished

    async def note_deployment(self, unfinished: UnfinishedDeployment) -> None:
        """Note the progress of a deployment."""
        await self._state.note(lambda wanted: wanted.unfinished.update({unfinished.project: unfinished}))

    async def end_deployment(self, project: str) -> None:
        """Forget the deployment of *project*, which is complete."""
        await self._state.note(lambda wanted: wanted.unfinished.pop(project, None))
