"""The question where the controller is, and its answer by a replica or a proxy.

Rule 1: the question is an empty REQUEST, so peers of every role may ask it. The answer is not a pickle.
"""

from __future__ import annotations

import msgspec

from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.frames import Frame
from serve_bridge.wire.replica_end import ReplicaStream

_encode = msgspec.msgpack.Encoder().encode


def is_question(frame: Frame) -> bool:
    """Return whether *frame*, a REQUEST, asks where the controller is."""
    return not frame.payload


def answer(stream: ReplicaStream, controller: ReplicaAddress) -> None:
    """Tell the caller that the controller is at *controller*."""
    stream.respond(_encode(controller), end=True)
