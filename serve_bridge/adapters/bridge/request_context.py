"""The context of a request: facts that the app knows and forwards to the backend, such as the user or the tenant.

Rule 1: only named facts are forwarded. A route names them, with the path to each value, when it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from serve_bridge.errors import ConfigError, SerializationError
from serve_bridge.printable import shown

Context = Mapping[str, str] | Callable[[Any], Mapping[str, Any]]
"""An allow-list of names with dotted paths to their values, or a function of the framework's request."""

_LEAST: Final = -(1 << 63)
_MOST: Final = (1 << 64) - 1
"""The least and the greatest number that the data plane sends."""


def compile_context(option: str, value: Any) -> Callable[[Any], Mapping[str, Any]]:
    """Return a function that takes the framework's request and returns the context to forward.

    The first part of a path is an attribute of the request, and must exist: a misspelt name must not look like an
    anonymous user. Each other part is a key if the value before it has keys, as a session has. Otherwise it is an
    attribute. The value of a missing key or attribute is None. Keys may begin with an underscore. Attributes with an
    underscore are private, so the function raises a ConfigError if a path leads to one.

    Raises:
        ConfigError: *value* is neither an allow-list nor a function, or a path begins with a private attribute.
    """
    if callable(value):
        return lambda request: _checked(option, value(request))
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise ConfigError(
            f"{option} must be a dict of names and paths such as {{'user_id': 'user.pk'}}, or a function, "
            f"got {shown(value)}"
        )
    for name, path in value.items():
        parts = path.split(".")
        if not all(part.isidentifier() for part in (name, *parts)) or parts[0].startswith("_"):
            raise ConfigError(
                f"{option}[{name!r}] must be a dotted path of names that begins with a public one, got {shown(path)}"
            )
    return Paths(option, value)


class Paths:
    """A compiled allow-list.

    Attributes:
        roots: The attributes of the request with which the paths begin.
    """

    def __init__(self, option: str, paths: Mapping[str, str]) -> None:
        self._option = option
        self._paths = tuple((name, path.split(".")) for name, path in paths.items())
        self.roots: frozenset[str] = frozenset(path[0] for _, path in self._paths)

    def __call__(self, request: Any) -> Mapping[str, Any]:
        """Return the context of *request*."""
        option = self._option
        return _checked(option, {name: _value(f"{option}[{name!r}]", request, path) for name, path in self._paths})


def _value(option: str, request: Any, path: list[str]) -> Any:
    try:
        found = getattr(request, path[0])
    except AttributeError:
        raise ConfigError(
            f"{option}: the request has no attribute {path[0]!r}, which '{'.'.join(path)}' begins with"
        ) from None
    for part in path[1:]:
        # A framework's proxy object has every special method, but its `__class__` is that of the real value.
        has_keys = hasattr(found, "get") and hasattr(found.__class__, "__getitem__")
        if not has_keys and part.startswith("_") and found is not None:
            kind = found.__class__.__name__
            raise ConfigError(
                f"{option}: '{'.'.join(path)}' leads to the private attribute {part!r} of a {kind}; "
                "only keys may begin with an underscore, so let a function return the value"
            )
        found = found.get(part) if has_keys else getattr(found, part, None)
    return found


def _checked(option: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise SerializationError(f"{option} must return a mapping, got {type(found).__name__}")
    return {_name(option, name): _plain(option, name, value) for name, value in found.items()}


def _name(option: str, name: Any) -> str:
    if not isinstance(name, str):
        raise SerializationError(f"{option} must return a mapping with str keys, got {shown(name)}")
    return plain_text(name)


def _plain(option: str, name: str, value: Any) -> Any:
    """Return *value* as one of Python's own types. Members of an Enum and values of NumPy have types of their own."""
    if isinstance(value, str | UUID):
        return _encodable(f"{option}[{name!r}]", plain_text(value))
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, int):
        return _sendable(f"{option}[{name!r}]", int(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, type(None)):  # a framework's proxy object too
        return None
    raise SerializationError(
        f"{option}[{name!r}] is a {type(value).__name__}; a context value is text, a number, a bool or None"
    )


def _encodable(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SerializationError(f"{what} is text that cannot be encoded as UTF-8") from None
    return text


def _sendable(what: str, number: int) -> int:
    if not _LEAST <= number <= _MOST:
        raise SerializationError(f"{what} is a number of more than 64 bits; let a function return it as text")
    return number


def plain_text(value: Any) -> str:
    """Return the text of *value* as a str. The text of a `str` subclass is its content, whatever its `__str__` says."""
    if issubclass(type(value), str):
        return str.__str__(value)
    # A framework's proxy object is an instance of `str` too, but not of a subclass. It passes the slice on.
    return str.__str__(value[:] if isinstance(value, str) else str(value))
