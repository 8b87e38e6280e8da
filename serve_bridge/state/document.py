"""The state of an instance as JSON, with the number of its format and a checksum.

Rule 1: a document of a later format is refused, and one that is incomplete or damaged too.
Rule 2: the text is ASCII, so any string of Python survives, also the name of a directory that is not UTF-8.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown
from serve_bridge.state.records import StateRecord, digest_of

FORMAT: Final = 1


class UnreadableState(ConfigError):
    """A document does not hold a state that this version can read. The message is the reason, without the path."""


def encode(record: StateRecord, *, code: Mapping[str, bytes] | None = None, sealed: bool = False) -> bytes:
    """Return *record* as a document.

    Args:
        record: The state.
        code: Code and pickles by their SHA-256, for a document that needs no other file.
        sealed: Whether the document has a checksum, so that damage is noticed.
    """
    document: dict[str, Any] = {"format": FORMAT, "written_by": _own_version()}
    document |= msgspec.to_builtins(record)
    if code is not None:
        document["code"] = {digest: base64.b64encode(data).decode() for digest, data in code.items()}
    if sealed:
        document["checksum"] = _checksum(document)
    return json.dumps(document, indent=2).encode() + b"\n"


def decode(data: bytes) -> tuple[StateRecord, dict[str, bytes]]:
    """Return the state in the document *data*, and the code in it by its SHA-256.

    Raises:
        UnreadableState: The document is damaged, of a later format, or not a state.
    """
    if not data.endswith(b"\n"):
        raise UnreadableState(
            "it is incomplete or not a state: its last line has no end; export it again, or end an edited file with a "
            "line feed"
        )
    try:
        document = json.loads(data, object_pairs_hook=_without_doubles, parse_constant=_refused_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableState(f"it is incomplete or not a state: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise UnreadableState("it is not a state: it has no format")
    found = document.pop("format")
    writer = document.pop("written_by", "")
    if found != FORMAT:
        raise UnreadableState(
            f"it has format {found}, written by serve_bridge {shown(writer)}, and this version, "
            f"{_own_version()}, reads format {FORMAT}; use that version of serve_bridge"
        )
    checksum = document.pop("checksum", None)
    if checksum is not None and checksum != _checksum({"format": found, "written_by": writer, **document}):
        raise UnreadableState(
            "its checksum does not fit: it is damaged or was edited; "
            "`serve-bridge apply` takes an edited state, without the line of the checksum"
        )
    code = document.pop("code", {})
    try:
        record = msgspec.convert(document, StateRecord)
        blobs = msgspec.convert(code, dict[str, bytes])
    except msgspec.ValidationError as error:
        raise UnreadableState(f"it is not a state that this version knows: {error}") from None
    for digest, blob in blobs.items():
        if digest_of(blob) != digest:
            raise UnreadableState(f"its code {digest[:12]} is damaged")
    return record, blobs


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return *pairs* as a dict. Of a name that occurs twice, JSON would keep the last value only, in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {shown(double)} occurs twice in one object; rename or remove one of them")
    return found


def _refused_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")


def _own_version() -> str:
    # The package is loaded before its modules. An import of it here would be an import up the layers.
    return str(getattr(sys.modules["serve_bridge"], "__version__", ""))


def _checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
