"""The values of a plan: the order that asks for a deployment, and the changes that it needs."""

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
    """Of an update or a configuration: the options that change."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"

    @property
    def title(self) -> str:
        """What is done to what, without the reason."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Order:
    """The options of a deployment, beside the declarations.

    Attributes:
        project: The owner of the deployment.
        traffic: Whether declared traffic replaces the traffic of endpoints that exist.
        prune: Whether to delete what the project deployed before and no longer declares.
        force: Whether to replace the replicas of unchanged backends too.
        take_over: Whether to take over what another project, or a person, has made.
        unfinished: What an unfinished deployment of the project created: "backend b", "endpoint e".
    """

    project: str
    traffic: bool = False
    prune: bool = False
    force: bool = False
    take_over: bool = False
    unfinished: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """What a deployment will do.

    Attributes:
        changes: In the order in which they are made.
        notes: What the person who deploys should look at.
        endpoints: The declared endpoints, with traffic only where the deployment sets it.
        moved: Unchanged backends whose code lies in other directories now, where later replicas must find it.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    endpoints: tuple[DeclaredEndpoint, ...]
    moved: tuple[str, ...] = ()

    @property
    def deletions(self) -> tuple[Change, ...]:
        """The changes that delete something."""
        return tuple(change for change in self.changes if change.kind.startswith("delete"))
