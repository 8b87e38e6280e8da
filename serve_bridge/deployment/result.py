"""The result of a deployment, and its end by Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from serve_bridge.deployment.change import Change


@dataclass(frozen=True)
class Deployment:
    """The changes of a finished deployment.

    Attributes:
        instance: Name of the instance.
        changes: The changes, in order; empty: the instance matched the declarations already.
        notes: Remarks for the person who deploys.
        dry_run: Whether the changes were only planned.
        project: The owner of the deployment.
    """

    instance: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    dry_run: bool = False
    project: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        changes = [{"kind": each.kind, "name": each.name, "reason": each.reason} for each in self.changes]
        return {**asdict(replace(self, changes=())), "changes": changes, "notes": list(self.notes)}

    def __str__(self) -> str:
        count = len(self.changes)
        changes = f"{count} change{'s' if count != 1 else ''}" if count else "as declared, nothing to change"
        lines = [f"instance {self.instance}: {changes}{' to make; none was made' if self.dry_run and count else ''}"]
        lines += listed(self.changes)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def listed(changes: Sequence[Change]) -> list[str]:
    """Return a line for each change, in columns."""
    kinds = max((len(each.kind) for each in changes), default=0)
    names = max((len(each.name) for each in changes), default=0)
    return [f"  {each.kind:{kinds}}  {each.name:{names}}  {each.reason}" for each in changes]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C has ended a deployment.

    Attributes:
        project: The owner of the deployment.
        done: The finished changes.
        begun: The changes which the instance completes now.
        left: The changes not begun.
    """

    def __init__(self, project: str, done: Iterable[str], begun: Iterable[str], left: Iterable[str]) -> None:
        self.project: str = project
        self.done: tuple[str, ...] = tuple(done)
        self.begun: tuple[str, ...] = tuple(begun)
        self.left: tuple[str, ...] = tuple(left)
        super().__init__(project, self.done, self.begun, self.left)

    def __str__(self) -> str:
        return (
            f"the deployment of project {self.project!r} was interrupted. Done: {', '.join(self.done) or 'nothing'}; "
            f"the instance completes: {', '.join(self.begun) or 'nothing'}; "
            f"not begun: {', '.join(self.left) or 'nothing'}. `status` shows it until the project's next deployment, "
            "which finishes it, or deletes what it created if that is no longer declared"
        )
