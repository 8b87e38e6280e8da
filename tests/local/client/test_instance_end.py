"""The shutdown of an instance whose controller is lost before it answers."""

from __future__ import annotations

from typing import Any

import pytest

from serve_bridge.client import instance_end
from serve_bridge.client.instance_end import end_instance
from serve_bridge.errors import NotConnected
from serve_bridge.instance.operations import AnswerLost, Operation


class Controllers:
    """The controllers of one instance, by the ends of their shutdowns: an error, or None for an answer."""

    def __init__(self, *ends: Exception | None) -> None:
        self.left = list(ends)

    def run(self, operation: Operation, *args: Any, timeout_s: float = 0.0) -> Any:
        """Run *operation* in the next controller."""
        if operation == Operation.LIST_BACKENDS:
            return {}
        if (end := self.left.pop(0)) is not None:
            raise end
        return None


def test_the_next_controller_completes_the_shutdown_of_a_lost_one() -> None:
    """It takes over the whole instance, which would otherwise run on."""
    controllers = Controllers(AnswerLost("killed"), NotConnected("it starts"), None)
    end_instance(controllers.run, True)
    assert controllers.left == []


def test_an_instance_that_does_not_answer_has_ended() -> None:
    """Nothing is waited for."""
    controllers = Controllers(NotConnected("no controller"), None)
    with pytest.raises(NotConnected, match="no controller"):
        end_instance(controllers.run, True)
    assert controllers.left == [None]


def test_controllers_that_are_lost_again_and_again_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance may run on, so that the user must try again."""
    monkeypatch.setattr(instance_end, "RESTART_S", 0.0)
    with pytest.raises(AnswerLost, match="second"):
        end_instance(Controllers(AnswerLost("first"), AnswerLost("second"), None).run, True)
