"""The operations of a controller, by their names on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from serve_bridge.errors import NotConnected


class AnswerLost(NotConnected):
    """The controller was lost before it answered, so it is unknown whether the operation was done."""


class Operation(StrEnum):
    """An operation of the controller for its clients."""

    CREATE_BACKEND = "create_backend"
    UPDATE_BACKEND = "update_backend"
    UPDATE_BACKEND_CONFIG = "update_backend_config"
    DELETE_BACKEND = "delete_backend"
    LIST_BACKENDS = "list_backends"
    CREATE_ENDPOINT = "create_endpoint"
    DECLARE_ENDPOINTS = "declare_endpoints"
    DELETE_ENDPOINT = "delete_endpoint"
    LIST_ENDPOINTS = "list_endpoints"
    SET_TRAFFIC = "set_traffic"
    SHADOW_TRAFFIC = "shadow_traffic"
    HOLD_DEPLOYMENT = "hold_deployment"
    BEGIN_DEPLOYMENT = "begin_deployment"
    NOTE_DEPLOYMENT = "note_deployment"
    END_DEPLOYMENT = "end_deployment"
    STATUS = "status"
    DIAGNOSE = "diagnose"
    EXPORT_STATE = "export_state"
    DIFFERENCES = "differences"
    LEASE = "lease"
    KEYS = "keys"
    RENEW_BACKEND = "renew_backend"
    RENEW_PROXIES = "renew_proxies"
    SHUTDOWN = "shutdown"

    @property
    def is_held(self) -> bool:
        """Whether the operation runs for as long as its caller stays connected."""
        return self in (Operation.HOLD_DEPLOYMENT, Operation.LEASE)

    def arguments(self, args: tuple[Any, ...], version: int) -> tuple[Any, ...]:
        """Return the part of *args* that a controller with this *version* of the wire knows."""
        return args[: _ARGUMENTS_OF_2.get(self)] if version <= 2 else args


_ARGUMENTS_OF_2: Final = {Operation.DIFFERENCES: 2, Operation.SHUTDOWN: 0}
"""Number of the arguments in version 2 of the wire, of operations which have more in a later version."""
