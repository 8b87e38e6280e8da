"""The update of a backend's code, as a caller sees it: complete, undone, or cut off by the end of the controller."""

from __future__ import annotations

import contextlib
from typing import Final

from serve_bridge.errors import DeadlineExceeded, NotConnected
from serve_bridge.instance.instance_status import InstanceStatus
from serve_bridge.instance.operations import AnswerLost, Operation
from serve_bridge.management.operator import Operator
from serve_bridge.specs import BackendUpdate

ASK_S: Final = 10.0
"""Upper limit for an answer of the next controller about the update, in seconds."""
TRIES: Final = 3
"""Number of questions to the next controller, each of which waits until it listens."""


def update_code(operator: Operator, update: BackendUpdate, timeout_s: float) -> None:
    """Make *update*, and wait for its end.

    Raises:
        NotConnected: The controller ended during the update. The message says how far it came, as the next one knows.
        Exception: As `Operator.operate`.
    """
    try:
        operator.operate(Operation.UPDATE_BACKEND, update, timeout_s=timeout_s)
    except AnswerLost as lost:
        raise NotConnected(f"{lost}; {_how_far(operator, update.name)}") from None


def _how_far(operator: Operator, name: str) -> str:
    for _ in range(TRIES):
        with contextlib.suppress(NotConnected, DeadlineExceeded):
            status: InstanceStatus = operator.operate(Operation.STATUS, timeout_s=ASK_S)
            update = None if name not in status.backends else status.backends[name].update
            if update is None:
                return f"no update of backend {name!r} is unfinished: it was complete, or it had not begun"
            return f"the update of backend {name!r} {update['state']}: {update['failure']}"
    return "no other controller answers; `serve-bridge status` shows later how far the update came"
