"""The options of a handle: which method it calls, with which headers, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serve_bridge.config.checks import header_value, seconds, text, token
from serve_bridge.context import valid_request_id
from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

DEFAULT_TIMEOUT_S: Final = 60.0
"""Default time limit of a call, in seconds."""
_check_seconds = seconds()


@dataclass(frozen=True)
class CallOptions:
    """How a handle calls; see `Handle.options`.

    Attributes:
        positional: Names of the positional arguments after the first one, under which they are sent.
        request_id: The id of each call from *http_headers*; None: they have no valid id.
    """

    method_name: str | None = None
    shard_key: str | None = None
    http_method: str | None = None
    http_headers: Mapping[str, str] | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    positional: tuple[str, ...] = ()
    request_id: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("method_name", "shard_key", "http_method"):
            value = getattr(self, name)
            if value is not None:
                text(name, value)
        if self.method_name == "":
            raise ConfigError("method_name must not be empty")
        if self.http_method is not None:
            object.__setattr__(self, "http_method", token("http_method", self.http_method).upper())
        headers = self.http_headers
        if headers is not None:
            if not isinstance(headers, Mapping) or not all(isinstance(s, str) for p in headers.items() for s in p):
                raise TypeError(f"http_headers must be a dict of str to str, got {shown(headers)}")
            for name, value in headers.items():
                token("a name in http_headers", name)
                header_value(f"http_headers[{name!r}]", value)
            object.__setattr__(self, "http_headers", dict(headers))  # later changes of the caller's dict mean nothing
            chosen = next((value for name, value in headers.items() if name.lower() == "x-request-id"), None)
            object.__setattr__(self, "request_id", valid_request_id(chosen))
        object.__setattr__(self, "timeout_s", _check_seconds("timeout_s", self.timeout_s))

    def chosen(self) -> list[tuple[str, object]]:
        """Return the name and the value of each option with another value than its default."""
        names = ("method_name", "shard_key", "http_method", "http_headers", "timeout_s")
        options = ((name, getattr(self, name)) for name in names)
        return [(name, value) for name, value in options if value != getattr(CallOptions, name)]
