"""The values of a plan: the order for a deployment, and its changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serve_bridge.specs import DeclaredEndpoint

Kind = Literal[
    "create backend",
    "update backend",
    "configure backend",
    "delete backend",
    "create endpoint",
    "change endpoint",
    "delete endpoint",
]


@dataclass(frozen=True)
class Change:
    """One change of an instance.

    Attributes:
        kind: "create backend", "update backend" (its code, by a rolling update), "configure backend" (its options
            only), "delete backend", "create endpoint", "change endpoint" or "delete endpoint".
        name: Of the backend or endpoint.
        reason: Why, for people.
    """

    kind: Kind
    name: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The changed options of an update or a configuration."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"

    @property
    def title(self) -> str:
        """The kind and the name, without the reason."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Order:
    """The options of a deployment, beside the declarations.

    Attributes:
        project: The owner of the deployment.
        traffic: Whether declared traffic replaces the traffic of existing endpoints.
        prune: Whether to delete backends and endpoints of the project without a declaration.
        force: Whether to replace the replicas of unchanged backends too.
        take_over: Whether to take over the declared names of other projects, and those made by hand.
        unfinished: Backends and endpoints of an unfinished deployment of the project: "backend b", "endpoint e".
    """

    project: str
    traffic: bool = False
    prune: bool = False
    force: bool = False
    take_over: bool = False
    unfinished: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """The changes of a deployment, before they are made.

    Attributes:
        changes: The changes, in order.
        notes: Remarks for the person who deploys.
        endpoints: The declared endpoints. They have traffic only if the deployment sets it.
        moved_endpoints: Endpoints that are created again, because their order changes. Routes are matched in order.
        moved: Unchanged backends whose code has moved to other directories. Later replicas must find it there.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    endpoints: tuple[DeclaredEndpoint, ...]
    moved: tuple[str, ...] = ()
    moved_endpoints: tuple[str, ...] = ()

    @property
    def deletions(self) -> tuple[Change, ...]:
        """The deletions among the changes."""
        return tuple(change for change in self.changes if change.kind.startswith("delete"))
