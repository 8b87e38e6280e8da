"""The operations of a controller, by their names on the wire."""

from __future__ import annotations

from enum import StrEnum


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
    EXPORT_STATE = "export_state"
    DIFFERENCES = "differences"
    LEASE = "lease"
    SHUTDOWN = "shutdown"

    @property
    def is_held(self) -> bool:
        """Whether the operation runs for as long as its caller stays connected."""
        return self in (Operation.HOLD_DEPLOYMENT, Operation.LEASE)
