"""The states of one stream, and the two tables of frames that are allowed in each state.

Rule 1: a frame that the tables do not list is a `ProtocolError`, and the connection closes. So a late or doubled frame
    can never pass for the answer to another request.
Rule 2: each request gets exactly one last frame from the replica: RESPONSE or DATA with END, REJECT or ABORT.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from serve_bridge.wire.frames import END, MORE, Kind


class State(IntEnum):
    """The state of one stream, as one end sees it."""

    # at both ends
    GONE = 0
    """The stream has ended."""
    # at the caller
    WAITING = 1
    """The request was sent; the answer has not begun."""
    STREAMING = 2
    """The head of the answer has arrived; its body arrives."""
    GIVEN_UP = 3
    """CANCEL was sent, or GOAWAY has arrived. Further frames are dropped, up to the last frame."""
    # at the replica
    UPLOADING = 4
    """The request has arrived; its body arrives."""
    ANSWERING = 5
    """All of the request has arrived."""
    CANCELLED = 6
    """CANCEL has arrived. The replica must still send the last frame."""
    ABANDONED = 7
    """The replica has sent the last frame during the upload. Further frames are dropped, up to END or CANCEL."""


_S, _K = State, Kind
Table = Mapping[tuple[State, Kind, int], State]
CALLER: Final[Table] = {
    # (state, kind received, flags) -> state
    (_S.WAITING, _K.RESPONSE, 0): _S.STREAMING,
    (_S.WAITING, _K.RESPONSE, END): _S.GONE,
    (_S.WAITING, _K.REJECT, END): _S.GONE,
    (_S.WAITING, _K.ABORT, END): _S.GONE,
    (_S.WAITING, _K.CREDIT, 0): _S.WAITING,
    (_S.STREAMING, _K.DATA, 0): _S.STREAMING,
    (_S.STREAMING, _K.DATA, MORE): _S.STREAMING,
    (_S.STREAMING, _K.DATA, END): _S.GONE,
    (_S.STREAMING, _K.ABORT, END): _S.GONE,
    (_S.STREAMING, _K.CREDIT, 0): _S.STREAMING,
    (_S.GIVEN_UP, _K.RESPONSE, 0): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.RESPONSE, END): _S.GONE,
    (_S.GIVEN_UP, _K.DATA, 0): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.DATA, MORE): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.DATA, END): _S.GONE,
    (_S.GIVEN_UP, _K.REJECT, END): _S.GONE,
    (_S.GIVEN_UP, _K.ABORT, END): _S.GONE,
    (_S.GIVEN_UP, _K.CREDIT, 0): _S.GIVEN_UP,
}
"""The frames that a caller may receive."""
REPLICA: Final[Table] = {
    (_S.UPLOADING, _K.DATA, 0): _S.UPLOADING,
    (_S.UPLOADING, _K.DATA, MORE): _S.UPLOADING,
    (_S.UPLOADING, _K.DATA, END): _S.ANSWERING,
    (_S.UPLOADING, _K.CANCEL, END): _S.CANCELLED,
    (_S.UPLOADING, _K.CREDIT, 0): _S.UPLOADING,
    (_S.ANSWERING, _K.CANCEL, END): _S.CANCELLED,
    (_S.ANSWERING, _K.CREDIT, 0): _S.ANSWERING,
    (_S.ABANDONED, _K.DATA, 0): _S.ABANDONED,
    (_S.ABANDONED, _K.DATA, MORE): _S.ABANDONED,
    (_S.ABANDONED, _K.DATA, END): _S.GONE,
    (_S.ABANDONED, _K.CANCEL, END): _S.GONE,
    (_S.ABANDONED, _K.CREDIT, 0): _S.ABANDONED,
}
"""The frames that a replica may receive on a stream that a REQUEST or CALL has opened."""
