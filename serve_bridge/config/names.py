"""The names of endpoints, backends and instances: which characters they may have."""

from __future__ import annotations

import re
from typing import Final

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

NAME_ALPHABET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}", re.ASCII)


def check_name(kind: str, name: object) -> str:
    """Return *name* if it can name an endpoint, a backend or an instance.

    A name has 1 to 128 characters out of ASCII letters, digits and `_ . : -`, and begins with a letter, a
    digit or `_`. It needs no quoting in a URL, a metric's label, an actor's name or a log line.

    Args:
        kind: The word for the error message: "endpoint", "backend" or "instance".
        name: The name as the user gave it.

    Raises:
        TypeError: *name* is not a str.
        ConfigError: *name* is empty, too long, or has another character. It is a ValueError.
    """
    if not isinstance(name, str):
        raise TypeError(f"{kind} name must be a str, got {shown(name)}")
    if not NAME_ALPHABET.fullmatch(name):
        raise ConfigError(
            f"{kind} name must be 1 to 128 characters out of A-Z a-z 0-9 _ . : -, the first one a letter, "
            f"a digit or _, got {shown(name)}"
        )
    return name


def existing_name(kind: str, name: object) -> str:
    """Return the name of an existing backend or endpoint. Only its type is checked, because it was created with it."""
    if not isinstance(name, str):
        raise TypeError(f"{kind} name must be a str, got {shown(name)}")
    return name
