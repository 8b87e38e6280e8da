"""The question where the controller is, and its answer by a replica or a proxy.

Rule 1: the question is an empty REQUEST, so peers of every role may ask it. The answer is not a pickle.
"""

from __future__ import annotations

from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.frames import Frame
from serve_bridge.wire.heads import encode_head
from serve_bridge.wire.replica_end import ReplicaStream


def is_question(frame: Frame) -> bool:
    """Return whether *frame*, a REQUEST, asks where the controller is."""
    return not frame.payload


def answer(stream: ReplicaStream, controller: SocketAddress) -> None:
    """Answer with the address of the controller."""
    stream.respond(encode_head(controller), end=True)
