"""The application of an exported state to a running instance: the steps of a deployment, from a file.

Rule 1: `state_plan` decides. The state and all necessary code are checked before the first change.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from serve_bridge.deployment.deploy import TURN_S, Confirm
from serve_bridge.deployment.result import Deployment
from serve_bridge.deployment.state_check import check_state
from serve_bridge.deployment.state_plan import state_plan
from serve_bridge.deployment.steps import make
from serve_bridge.errors import ConfigError
from serve_bridge.instance.operations import Operation
from serve_bridge.management.operator import OPERATION_S, Operator
from serve_bridge.printable import shown
from serve_bridge.specs import BackendSpec, UnfinishedDeployment
from serve_bridge.state.document import UnreadableState, decode
from serve_bridge.state.records import StateRecord
from serve_bridge.state.state_files import StateFiles

PROJECT: Final = "serve-bridge apply"
"""Stands for the project while a state is applied. No project has this name, because it has a space."""
CODE_S: Final = 300.0
"""Upper limit for the transfer of all code of an instance, in seconds."""


def apply(
    document: bytes, source: str, *, client: Operator, confirm: Confirm | None = None, dry_run: bool = False
) -> Deployment:
    """Make the instance of *client* match an exported state.

    Args:
        document: The exported state.
        source: Path of its file. Code that the document lacks is read from the folder `code` beside it.
        client: The instance.
        confirm: Gets the deletions before the first change, and raises if the user refuses them.
        dry_run: Change nothing. The result says what would change.

    Raises:
        ConfigError: The document is not a state that this version can read, a value in it is bad, or code is missing.
            Nothing has changed.
        DeploymentError: A change failed. The error says which changes were made.
    """
    try:
        wanted, given = decode(document)
        check_state(wanted)
    except ConfigError as error:
        raise ConfigError(f"{source} cannot be applied: {error}") from None
    if dry_run:
        planned = state_plan(wanted, _exported(client)[0], _Blobs(client, given, source))
        return Deployment(client.name, planned.changes, planned.notes, dry_run=True)
    key = secrets.token_hex(8)
    with client.holding(Operation.HOLD_DEPLOYMENT, PROJECT, key):
        client.operate(Operation.BEGIN_DEPLOYMENT, PROJECT, key, TURN_S, timeout_s=TURN_S + OPERATION_S)
        running, _ = _exported(client)
        blobs = _Blobs(client, given, source)
        planned = state_plan(wanted, running, blobs)
        changed = {change.name for change in planned.changes if change.kind.endswith("backend")}
        backends = {name: each.restored(name, blobs) for name, each in wanted.backends.items() if name in changed}
        _check_code(backends, source)
        if planned.deletions and confirm is not None:
            confirm(planned.deletions)
        make(client, planned, backends, UnfinishedDeployment(PROJECT, time.time()))
        client.operate(Operation.END_DEPLOYMENT, PROJECT)
    return Deployment(client.name, planned.changes, planned.notes)


def _check_code(backends: Mapping[str, BackendSpec], source: str) -> None:
    # Late, because a process that only calls backends does not need to examine code.
    from serve_bridge.user_code.frozen_code import FrozenCode

    for name, backend in backends.items():
        try:
            FrozenCode.of(backend.code)
        except (msgspec.MsgspecError, ValueError):
            raise ConfigError(
                f"{source} cannot be applied: backend {shown(name)}: its code is not code of a backend; export the "
                "state again with --with-code"
            ) from None


def _exported(client: Operator, *, with_code: bool = False) -> tuple[StateRecord, dict[str, bytes]]:
    timeout_s = CODE_S if with_code else OPERATION_S
    return decode(client.operate(Operation.EXPORT_STATE, with_code, timeout_s=timeout_s))


class _Blobs:
    """Code and pickles by their SHA-256: of the document, of the folder beside it, or of the running instance."""

    def __init__(self, client: Operator, given: dict[str, bytes], source: str) -> None:
        self._client = client
        self._known = given
        self._source = source
        self._files = StateFiles(Path(source).absolute().parent)
        self._asked = False

    def __call__(self, digest: str) -> bytes:
        """Return the bytes with this SHA-256.

        Raises:
            ConfigError: They are in none of the three places.
        """
        if digest not in self._known:
            try:
                self._known[digest] = self._files.blob(digest)
            except UnreadableState:
                if not self._asked:
                    self._asked = True
                    self._known |= _exported(self._client, with_code=True)[1]
        if digest not in self._known:
            raise ConfigError(
                f"{self._source} cannot be applied: code {digest[:12]} is not in it, not in the folder `code` beside "
                f"it, and not in instance {self._client.name!r}; export the state with --with-code"
            )
        return self._known[digest]
