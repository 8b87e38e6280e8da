"""The way to the controller of an instance, for its operations."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from serve_bridge.instance.operations import Operation

OPERATION_S: Final = 30.0
"""Upper limit for an operation without starts or ends of replicas, in seconds."""


class Operator(Protocol):
    """A way to the controller of an instance."""

    @property
    def name(self) -> str:
        """The instance's name."""

    def operate(self, operation: Operation, *args: Any, timeout_s: float = OPERATION_S) -> Any:
        """Return the result of *operation*, which the controller runs.

        Raises:
            NotConnected, DeadlineExceeded: The controller does not answer, or not in time.
            Exception: The controller refuses the operation, or it failed.
        """

    def holding(self, operation: Operation, *args: Any) -> AbstractContextManager[None]:
        """Return a context within which the controller runs *operation*. It ends with the context or the process."""
