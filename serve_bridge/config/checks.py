"""The checks of options: a check takes the name and value of an option, and returns the stored value.

Rule 1: a check does not coerce in silence: `True`, `1.0` and `"1"` are not whole numbers.
Rule 2: a check raises ConfigError with the option's name, the allowed values and the given one. It does no I/O.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

MOST_SECONDS: Final = 365 * 24 * 3600.0  # far below what overflows a timer of the operating system

Check = Callable[[str, Any], Any]
"""Takes an option's name and value, returns the value as stored, raises ConfigError."""


def whole_number(least: int, most: int) -> Check:
    """Return a check for an int from *least* to *most*, both included. A bool is not an int here."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{name} must be an int from {least} to {most}, got {shown(value)}")
        return value

    return check


def seconds(*, zero: bool = False) -> Check:
    """Return a check for a number of seconds above 0 (with *zero*, also 0 itself) and at most a year."""

    def check(name: str, value: Any) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= MOST_SECONDS or (value == 0 and not zero):
            bound = "of 0 or more" if zero else "above 0"
            raise ConfigError(
                f"{name} must be a number of seconds {bound}, at most {MOST_SECONDS:.0f}, got {shown(value)}"
            )
        return float(value)

    return check


def optional(check: Check) -> Check:
    """Return *check*, but let None pass."""
    return lambda name, value: None if value is None else check(name, value)


def anything(name: str, value: Any) -> Any:
    """Accept every value."""
    return value


def flag(name: str, value: Any) -> bool:
    """Accept True and False only."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {shown(value)}")
    return value


def file_path(name: str, value: Any) -> str:
    """Accept the path of a file, and store it as an absolute path, because another process reads it."""
    try:
        path = os.fsdecode(value)
    except (TypeError, UnicodeError):
        path = ""
    if not path or "\0" in path:
        raise ConfigError(f"{name} must be the path of a file, got {shown(value)}")
    return os.path.abspath(path)


def check_no_key(name: str, value: object, right: str) -> None:
    """Refuse *value* if it contains a key, such as that of a key file. The error does not show it.

    Raises:
        ConfigError: It contains a key. The message says that *right* belongs there.
    """
    if isinstance(value, str | os.PathLike) and _KEY.search(os.fsdecode(value)):
        raise ConfigError(
            f"{name} contains a key, which others may see there, and it must be {right}; leave the key in a file with "
            "mode 0600, and make new keys with `serve-bridge keys rotate` if others have seen it"
        )


_KEY: Final = re.compile("[0-9A-Fa-f]{64}")
"""The hexadecimal digits of a key."""


def password(name: str, value: Any) -> str:
    """Accept a str. The error does not show the value."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a str, got something of type {type(value).__name__}")
    return value


def listed(name: str, value: Any) -> tuple[Any, ...]:
    """Accept any iterable but text and mappings, and store a tuple of it."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} must be a list, got {shown(value)}")
    return tuple(value)


def method_names(name: str, value: Any) -> tuple[str, ...]:
    """Accept a list of names of public methods."""
    names = listed(name, value)
    for method in names:
        if not isinstance(method, str) or not method.isidentifier():
            raise ConfigError(f"{name} must list names of methods, got {shown(method)}")
        if method.startswith("_"):
            raise ConfigError(f"{name} must not name {shown(method)}: names with an underscore stay private")
    return tuple(dict.fromkeys(names))


def middleware_list(name: str, value: Any) -> tuple[Any, ...]:
    """Accept a list of `starlette.middleware.Middleware`."""
    wrappers = listed(name, value)
    for wrapper in wrappers:
        # Judged by its attributes: an import of the class would load it in processes without a proxy.
        if isinstance(wrapper, type) or not all(hasattr(wrapper, part) for part in ("cls", "args", "kwargs")):
            raise ConfigError(f"{name} must list starlette.middleware.Middleware(YourClass, ...), got {shown(wrapper)}")
    return wrappers


def check_text(value: object) -> str:
    """Return *value* if it is a str; `ipaddress` would take a bare int for an address."""
    if not isinstance(value, str):
        raise TypeError(f"expected a str, got {shown(value)}")
    return value


def networks(name: str, value: Any) -> tuple[str, ...]:
    """Accept a list of IP addresses and networks in CIDR notation."""
    entries = listed(name, value)
    for entry in entries:
        try:
            ipaddress.ip_network(check_text(entry), strict=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{name} must list IP addresses or networks such as '10.0.0.0/8', got {shown(entry)}"
            ) from None
    return entries


def host_patterns(name: str, value: Any) -> tuple[str, ...]:
    """Accept a list of host names, IP addresses, `*.domain`, `.domain` and `*`; store it in lower case."""
    entries = listed(name, value)
    if not entries:
        raise ConfigError(f"{name} must name at least one host; ['*'] stands for any")
    return tuple(_host_pattern(name, entry) for entry in entries)


def _host_pattern(name: str, entry: object) -> str:
    pattern = entry.lower() if isinstance(entry, str) else ""
    if _HOST_PATTERN.fullmatch(pattern):
        return pattern.removesuffix(".")
    try:
        return str(ipaddress.ip_address(check_text(entry).strip("[]")))
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} must list hosts without scheme, port and path, such as 'example.com', '*.example.com', '10.0.0.1' "
            f"or '*', got {shown(entry)}"
        ) from None


_HOST_PATTERN: Final = re.compile(r"\*|(?:\*?\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_-]+)*\.?")


# Text of messages


_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


def text(name: str, value: object) -> str:
    """Accept a str with a UTF-8 encoding.

    Raises:
        TypeError: It is not a str.
        ConfigError: It has lone surrogates.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} must be text that UTF-8 can hold, got {shown(value)}") from None
    return value


def path_text(name: str, value: object) -> str:
    """Accept a str, or a path such as `pathlib.Path`, which becomes a str.

    Raises:
        TypeError: It is neither.
        ConfigError: It has lone surrogates.
    """
    return text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)


def token(name: str, value: str) -> str:
    """Accept a token (RFC 9110 section 5.6.2), the form of HTTP methods and header names.

    Raises:
        ConfigError: It is not a token.
    """
    if not _TOKEN.fullmatch(value):
        raise ConfigError(f"{name} must be 1 to 128 letters, digits or any of !#$%&'*+.^_`|~-, got {shown(value)}")
    return value


def header_value(name: str, value: str) -> str:
    """Accept the value of a header: Latin-1 without control characters.

    Raises:
        ConfigError: It has another character.
    """
    if any((character < " " and character != "\t") or character == "\x7f" or character > "\xff" for character in value):
        raise ConfigError(f"{name} must be Latin-1 text without control characters, got {shown(value)}")
    return value


def key_file_path(name: str, value: Any) -> str:
    """Accept the path of a file, but not a key itself."""
    check_no_key(name, value, "the path of a file")
    return file_path(name, value)
