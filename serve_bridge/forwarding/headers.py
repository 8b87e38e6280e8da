"""The headers of a request on its way to a backend, and of its answer on the way back.

Rule 1: Control headers, named X-Serve-*, end here in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from serve_bridge.forwarding.refusals import BadControlHeader
from serve_bridge.http.headers import (
    CALL_METHOD,
    CREDENTIALS,
    FORWARDING,
    HOP_BY_HOP,
    REQUEST_ID,
    SHARD_KEY,
    TIMEOUT,
    HeaderList,
    end_to_end,
    nominated,
)

_CONSUMED: Final = frozenset({CALL_METHOD, SHARD_KEY, TIMEOUT})
NOT_FORWARDED: Final = HOP_BY_HOP | {b"expect"}
"""Request headers that are not forwarded. The server in front of the client sends a 100 (Continue) itself."""
NOT_FORWARDED_NOR_CREDENTIALS: Final = NOT_FORWARDED | CREDENTIALS


_NOT_PASSED_ON: Final = HOP_BY_HOP | {REQUEST_ID}
"""Response headers that the server sets itself; the same headers from user code are dropped."""
UNBUFFERED: Final = (b"x-accel-buffering", b"no")
"""Response header of a stream. Without it nginx would collect events before it passes them on."""
_SECONDS: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,15})?")


def split_headers(
    headers: HeaderList, dropped: frozenset[bytes], *, from_adapter: bool
) -> tuple[HeaderList, dict[bytes, bytes]]:
    """Return the headers to forward, and the control headers by name.

    With *from_adapter*, the function also drops the names that begin like `FORWARDING`, and names with "_", because
    WSGI cannot tell them from names with "-". The proxy has dropped these headers before.

    Raises:
        BadControlHeader: A control header is repeated.
    """
    passing: HeaderList = []
    control: dict[bytes, bytes] = {}
    options: list[bytes] = []
    for pair in headers:
        name = pair[0]
        if from_adapter and (b"_" in name or name.startswith(FORWARDING)):
            continue
        if name[:2] == b"x-":
            if name[:8] == b"x-serve-":
                if name in control and name in _CONSUMED:
                    raise BadControlHeader(f"the header {name.decode()} is there twice")
                control[name] = pair[1]
                continue
            if name == REQUEST_ID:
                control.setdefault(name, pair[1])
                continue
        if name not in dropped:
            passing.append(pair)
        elif name == b"connection":
            options.append(pair[1])
    if options and (listed := nominated(options) - HOP_BY_HOP):
        passing = [pair for pair in passing if pair[0] not in listed]
    return passing, control


def control_text(control: Mapping[bytes, bytes], name: bytes) -> str | None:
    """Return the value of a control header as text; None if the request does not have it.

    Raises:
        BadControlHeader: The value is empty or not ASCII.
    """
    value = control.get(name)
    if value is None:
        return None
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise BadControlHeader(f"the header {name.decode()} must be text and not empty")
    return text


def control_seconds(value: bytes) -> float:
    """Return the seconds in the control header `TIMEOUT`.

    Raises:
        BadControlHeader: *value* is not a number above 0.
    """
    if not _SECONDS.fullmatch(value) or not float(value):
        name, text = TIMEOUT.decode(), value[:40].decode("latin-1")
        raise BadControlHeader(f"the header {name} must be a number of seconds above 0, such as 2.5, got {text!r}")
    return float(value)


def passing_headers(headers: HeaderList) -> HeaderList:
    """Return the *headers* of an answer without those that user code may not set; the list itself if it has none."""
    for name, _ in headers:
        if name in _NOT_PASSED_ON or name[:8] == b"x-serve-":
            return [pair for pair in end_to_end(headers, _NOT_PASSED_ON) if pair[0][:8] != b"x-serve-"]
    return headers


def is_open_ended(headers: HeaderList) -> bool:
    """Return whether an answer with *headers* is streamed, and does not tell proxies how to buffer it."""
    return not any(name == b"content-length" or name == b"x-accel-buffering" for name, _ in headers)
