"""The options of `deploy`, for functions, clients and command lines."""

from __future__ import annotations

from typing import Final, TypedDict


class DeployOptions(TypedDict, total=False):
    """The options of `deploy` as keyword arguments; its docstring says what they mean."""

    project: str | None
    traffic: bool
    prune: bool
    force: bool
    dry_run: bool
    take_over: bool


DEPLOY_DEFAULTS: Final[DeployOptions] = {
    "project": None,
    "traffic": False,
    "prune": False,
    "force": False,
    "dry_run": False,
    "take_over": False,
}
