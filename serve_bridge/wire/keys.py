"""The keys with which the processes of an instance prove their roles to each other.

Rule 1: each role has a key of its own, derived from the instance's secret. A process that has the keys of some roles
    cannot prove another one.
Rule 2: a key never appears in a message, an error or a `repr`.
"""

from __future__ import annotations

import hmac
import secrets
from enum import IntEnum
from typing import Final


class Role(IntEnum):
    """The part that a process plays on a connection."""

    EDGE = 1
    """A proxy, which forwards the requests of strangers. It may send HTTP requests only."""
    PYTHON = 2
    """Trusted Python code of the same user. It may send Python calls too."""
    LISTENER = 3
    """The end that accepts the connection."""
    CONTROLLER = 4
    """The controller as a caller of a proxy. Replicas refuse this role, because a proxy has its key."""


CALLERS: Final = (Role.EDGE, Role.PYTHON, Role.CONTROLLER)


class Key:
    """The keys of some roles, or the instance's secret, from which the keys of all roles derive; 32 bytes each."""

    __slots__ = ("_roles", "_secret")

    def __init__(self, secret: bytes | None = None) -> None:
        """Derive the keys of all roles from *secret*; None: from a new secret."""
        self._secret: bytes | None = secrets.token_bytes(32) if secret is None else secret
        if len(self._secret) != 32:
            raise ValueError(f"a key has 32 bytes, not {len(self._secret)}")
        self._roles = {role: hmac.digest(self._secret, b"role" + bytes([role]), "sha256") for role in CALLERS}

    @property
    def secret(self) -> bytes:
        """The instance's secret, for a file with mode 0600 or an argument of a constructor.

        Raises:
            ValueError: This object has the keys of some roles only.
        """
        if self._secret is None:
            raise ValueError("the keys of some roles do not tell the secret")
        return self._secret

    def only(self, *roles: Role) -> Key:
        """Return only the keys of *roles*. No other key can be derived from them."""
        key = Key.__new__(Key)
        key._secret = None
        key._roles = {role: self._roles[role] for role in roles}
        return key

    @property
    def text(self) -> str:
        """The secret or the keys as text, for a file with mode 0600."""
        if self._secret is not None:
            return self._secret.hex()
        return ",".join(f"{role.name.lower()}:{key.hex()}" for role, key in self._roles.items())

    @classmethod
    def of_text(cls, text: str) -> Key:
        """Return the key whose `text` is *text*.

        Raises:
            ValueError: *text* is not the text of a key.
        """
        if ":" not in text:
            return cls(bytes.fromhex(text))
        key = cls.__new__(cls)
        key._secret = None
        pairs = (part.split(":") for part in text.split(","))
        key._roles = {Role[name.upper()]: bytes.fromhex(value) for name, value in pairs}
        return key

    def holds(self, role: int) -> bool:
        """Return whether this object has the key of *role*."""
        return role in self._roles

    def sign(self, role: Role, label: bytes, *parts: bytes) -> bytes:
        """Return the HMAC-SHA256 of *label* and *parts* with the key of *role*, which this object must have."""
        return hmac.digest(self._roles[role], label + b"".join(parts), "sha256")

    def __repr__(self) -> str:
        return "Key(...)"
