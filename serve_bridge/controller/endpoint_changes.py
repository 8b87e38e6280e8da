"""The operations on endpoints: each is one change of the wanted state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.specs import DeclaredEndpoint


class EndpointChanges:
    """Creates, changes and deletes endpoints."""

    def __init__(self, state: CommittedState) -> None:
        self._state = state

    async def create_endpoint(
        self,
        name: str,
        backend: str,
        route: str | None,
        methods: tuple[str, ...] | None,
        timeout_s: float | None = None,
    ) -> None:
        """Create endpoint *name*; see `WantedState.create_endpoint`."""
        await self._state.change(lambda wanted: wanted.create_endpoint(name, backend, route, methods, timeout_s))

    async def declare_endpoints(self, declared: Sequence[DeclaredEndpoint], withdrawn: Sequence[str]) -> None:
        """Create, change and delete endpoints, all at once; see `WantedState.declare_endpoints`."""
        await self._state.change(lambda wanted: wanted.declare_endpoints(declared, withdrawn))

    async def delete_endpoint(self, name: str) -> None:
        """Delete the endpoint; an unknown name is no error."""
        await self._state.change(lambda wanted: wanted.endpoints.pop(name, None))

    async def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Return the route, methods and traffic of every endpoint."""
        return self._state.wanted.describe_endpoints()

    async def set_traffic(self, endpoint: str, weights: Mapping[str, float]) -> None:
        """Replace the weights of an endpoint; see `WantedState.set_traffic`."""
        await self._state.change(lambda wanted: wanted.set_traffic(endpoint, weights))

    async def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        """Copy a share of the requests of an endpoint; see `WantedState.shadow_traffic`."""
        await self._state.change(lambda wanted: wanted.shadow_traffic(endpoint, backend, proportion))
