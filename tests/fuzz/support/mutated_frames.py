"""Frames of the data plane, and what mutation makes of them: the same again for the same seed and number.

Rule 1: pure, as `mutated_requests` is.
Rule 2: no pickle is changed: it may do anything, and only those who hold the instance's key can send one.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from serve_bridge.wire import payload
from serve_bridge.wire.frames import END, HEADER, MAX_PAYLOAD, MORE, Kind
from serve_bridge.wire.heads import CallAnswer, CallHead, HttpAnswer, HttpHead, Rejection, encode_head
from serve_bridge.wire.segments import join
from serve_bridge.wire.streams import CREDIT

__all__ = ["HTTP_HEAD", "mutated_frames"]

Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream, payload."""


def _http_head(**changed: Any) -> bytes:
    head = HttpHead(
        endpoint="e", backend="b", version=1, timeout_s=5.0, request_id="id", call_method="", method="POST",
        scheme="http", http_version="1.1", path="/p/\xe4", raw_path=b"/p", root_path="", query=b"a=b",
        headers=[(b"a", b"b"), (b"content-length", b"4")], path_params=(("n", "int", "5"),), client=("::1", 1),
        server=("a", None), forwarded=False, context=None, body=b"body",
    )  # fmt: skip
    return encode_head(msgspec.structs.replace(head, **changed))


HTTP_HEAD = _http_head()
_ARGUMENTS = join(payload.pack(((), {})))
_CALL_HEAD = encode_head(CallHead("e", "b", 1, 5.0, "id", "", "POST", None, False, len(_ARGUMENTS), _ARGUMENTS))
_CREDIT = CREDIT.pack(1000)

ASKED: Sequence[Sequence[Frame]] = (
    [(Kind.REQUEST, END, 1, HTTP_HEAD)],
    [(Kind.REQUEST, 0, 1, HTTP_HEAD), (Kind.DATA, MORE, 1, b"some"), (Kind.DATA, END, 1, b"more")],
    [(Kind.REQUEST, 0, 1, _http_head(forwarded=True)), (Kind.DATA, 0, 1, b"x" * 1000), (Kind.CANCEL, END, 1, b"")],
    [(Kind.REQUEST, END, 1, _http_head(context={"user": "\xe4"})), (Kind.CREDIT, 0, 1, _CREDIT)],
    [(Kind.REQUEST, 0, 1, _http_head(subprotocols=("a",))), (Kind.DATA, 0, 1, b"hello t"), (Kind.DATA, END, 1, b"")],
    [(Kind.REQUEST, END, number, HTTP_HEAD) for number in (1, 2, 3)],
    [(Kind.PING, 0, 0, b""), (Kind.REQUEST, END, 1, _http_head(call_method="missing")), (Kind.CANCEL, END, 1, b"")],
    [(Kind.CALL, END, 1, _CALL_HEAD), (Kind.CREDIT, 0, 1, _CREDIT)],
)
"""What callers send."""

ANSWERED: Sequence[Sequence[Frame]] = (
    [(Kind.RESPONSE, END, 1, encode_head(HttpAnswer(200, [(b"a", b"b")], b"body")))],
    [
        (Kind.RESPONSE, 0, 1, encode_head(HttpAnswer(200, [], b""))),
        (Kind.DATA, MORE, 1, b"some"),
        (Kind.DATA, END, 1, b""),
    ],
    [
        (Kind.CREDIT, 0, 1, _CREDIT),
        (Kind.RESPONSE, 0, 1, encode_head(CallAnswer(True, 5, b""))),
        (Kind.ABORT, END, 1, b""),
    ],
    [
        (Kind.REJECT, END, 1, encode_head(Rejection("full", "try later"))),
        (Kind.GOAWAY, 0, 1, b""),
        (Kind.PONG, 0, 0, b""),
    ],
)
"""What replicas send."""

_KINDS = [*Kind, 0, 12, 255]
_LENGTHS = [0, 1, 16, MAX_PAYLOAD, MAX_PAYLOAD + 1, 2**32 - 1]


def mutated_frames(seed: int, number: int, sources: Sequence[Sequence[Frame]]) -> bytes:
    """Return input *number* of *seed*: the frames of one or two of *sources* in which a few things are others."""
    random = Random(seed << 40 | number)
    frames = [frame for _ in range(random.choice((1, 1, 2))) for frame in random.choice(sources)]
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        _change_frames(random, frames)
    data = bytearray(b"".join(_written(random, frame) for frame in frames))
    if data and random.random() < 0.25:
        del data[random.randrange(len(data)) :]
    return bytes(data)


def _change_frames(random: Random, frames: list[Frame]) -> None:
    at = random.randrange(len(frames))
    kind, flags, stream, payload = frames[at]
    match random.randrange(8):
        case 0:
            frames[at] = (random.choice(_KINDS), flags, stream, payload)
        case 1:
            frames[at] = (kind, random.choice((0, END, MORE, END | MORE, 4, 255)), stream, payload)
        case 2:
            frames[at] = (kind, flags, random.choice((0, 1, 2, 3, 2**64 - 1)), payload)
        case 3:
            frames.insert(random.randint(0, len(frames)), frames[at])
        case 4:
            frames.append(frames.pop(at))
        case 5:
            frames.append(
                (Kind.DATA, random.choice((0, END)), stream, bytes(random.choice((0, 1, 70_000, MAX_PAYLOAD))))
            )
        case _ if kind != Kind.CALL:
            frames[at] = (kind, flags, stream, _changed(random, payload))


def _changed(random: Random, payload: bytes) -> bytes:
    changed = bytearray(payload)
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(changed))
        changed[at : at + random.randint(0, 2)] = random.randbytes(random.randint(0, 2))
    return bytes(changed)


def _written(random: Random, frame: Frame) -> bytes:
    kind, flags, stream, payload = frame
    length = len(payload) if random.random() < 0.98 else random.choice(_LENGTHS)
    return HEADER.pack(length, kind, flags, 0, stream) + payload
