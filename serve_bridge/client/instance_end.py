"""The shutdown of an instance, as its client asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from serve_bridge.errors import NotConnected, ProtocolError
from serve_bridge.instance.operations import AnswerLost, Operation
from serve_bridge.instance.remains import RESTART_S
from serve_bridge.management.operator import OPERATION_S


def end_instance(run: Callable[..., Any], forget: bool) -> None:
    """Let the controller end the instance. If it is lost before it answers, its successor does so.

    *run* runs an operation of the controller.

    Raises:
        NotConnected: No controller answers, so the instance has ended.
        AnswerLost: Later controllers were lost too.
    """
    gives_up_at = 0.0
    while True:
        try:
            run(Operation.SHUTDOWN, forget, timeout_s=_grace_s(run) * 2 + OPERATION_S)
        except AnswerLost:
            if gives_up_at and time.monotonic() > gives_up_at:
                raise
            gives_up_at = time.monotonic() + RESTART_S
        except NotConnected:
            if time.monotonic() > gives_up_at:
                raise
        else:
            return


def _grace_s(run: Callable[..., Any]) -> float:
    """Return the longest time that a replica of the instance has to drain, in seconds."""
    try:
        backends = run(Operation.LIST_BACKENDS)
    except ProtocolError:  # a controller of an earlier version refuses this during a shutdown
        return 0.0
    return max((config.graceful_shutdown_timeout_s for config in backends.values()), default=0.0)
