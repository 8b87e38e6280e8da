"""The keys with which the processes of an instance prove their roles to each other.

Rule 1: each role has a key of its own, derived from the instance's secret. A process that has the keys of some roles
    cannot prove another one. The key of MANAGE also gives that of CALL, and the key of CALL that of FORWARD.
Rule 2: a key never appears in a message, an error or a `repr`.
Rule 3: several secrets can be valid at a time, so that keys can be replaced without a stop. The id of a secret says
    which one a peer means; it reveals nothing of the secret.
"""

from __future__ import annotations

import hmac
import secrets
from enum import IntEnum
from typing import Any, Final, NamedTuple

from serve_bridge.config.tls import Tls


class Role(IntEnum):
    """The part that a process plays on a connection."""

    EDGE = 1
    """A proxy, which forwards the requests of strangers. It may send HTTP requests only."""
    PYTHON = 2
    """Trusted Python code that has the instance's secret, and the engine itself. It may do everything."""
    LISTENER = 3
    """The end that accepts the connection."""
    CONTROLLER = 4
    """The controller as a caller of a proxy. Replicas refuse this role, because a proxy has its key."""
    FORWARD = 5
    """A web worker with its key file. It may send HTTP requests, and calls with plain data."""
    CALL = 6
    """Python code with its key file. It may send pickled calls too."""
    MANAGE = 7
    """An operator with its key file. It may use the controller's operations too."""


CALLERS: Final = tuple(role for role in Role if role is not Role.LISTENER)
OF_FILES: Final = (Role.FORWARD, Role.CALL, Role.MANAGE)
"""The roles with a key file of their own, the weakest first."""
OPERATORS: Final = (Role.PYTHON, Role.MANAGE, Role.CALL, Role.FORWARD)
"""The roles in which a process may connect to the controller, the strongest first."""
CLIENTS: Final = (Role.PYTHON, Role.CALL, Role.FORWARD)
"""The roles in which a process may connect to a replica, the strongest first."""
RETIRED_S: Final = 10.0
"""Seconds for which the requests on a connection may go on after its key was retired."""
KEY_BYTES: Final = 32
ID_BYTES: Final = 6
"""Length of the id of a secret in bytes."""
NO_ID: Final = bytes(ID_BYTES)
"""The id in the hello of a peer that knows no ids. It means the oldest valid secret."""

_DERIVED: Final = {Role.MANAGE: Role.CALL, Role.CALL: Role.FORWARD}


class _Keys(NamedTuple):
    """The keys that derive from one secret.

    Attributes:
        id: The id of the secret.
        secret: The secret; None: only the keys of some roles are known.
        roles: The known keys.
    """

    id: bytes
    secret: bytes | None
    roles: dict[Role, bytes]


class Key:
    """The keys of some roles, or the instance's secret, from which the keys of all roles derive; 32 bytes each.

    After a rotation it has the keys of several secrets. It signs with the newest ones.

    Attributes:
        tls: The files for TLS, which a process proves itself with too; None: its connections are not encrypted.
    """

    __slots__ = ("_valid", "tls")

    def __init__(self, secret: bytes | None = None) -> None:
        """Derive the keys of all roles from *secret*; None: from a new secret."""
        secret = secrets.token_bytes(KEY_BYTES) if secret is None else secret
        _check_length(secret)
        roles = {role: _derived(secret, role) for role in (Role.EDGE, Role.PYTHON, Role.CONTROLLER, Role.MANAGE)}
        self._valid: tuple[_Keys, ...] = (_Keys(_id_of(secret), secret, _with_weaker(roles)),)
        self.tls: Tls | None = None

    @classmethod
    def of_role(cls, role: Role, key: bytes, id: bytes) -> Key:
        """Return the *key* of *role*, with the keys of weaker roles; *id* is that of its secret.

        Raises:
            ValueError: *key* does not have 32 bytes.
        """
        _check_length(key)
        return cls._of(_Keys(id, None, _with_weaker({role: key})))

    @classmethod
    def _of(cls, *valid: _Keys, tls: Tls | None = None) -> Key:
        made = cls.__new__(cls)
        made._valid = valid
        made.tls = tls
        return made

    def with_tls(self, tls: Tls | None) -> Key:
        """Return the same keys with the files for TLS."""
        return self._of(*self._valid, tls=tls)

    @property
    def secret(self) -> bytes:
        """The newest secret, for a file with mode 0600 or an argument of a constructor.

        Raises:
            ValueError: This object has the keys of some roles only.
        """
        found = self._valid[0].secret
        if found is None:
            raise ValueError("the keys of some roles do not tell the secret")
        return found

    @property
    def id(self) -> bytes:
        """The id of the newest secret."""
        return self._valid[0].id

    @property
    def each(self) -> list[Key]:
        """One object for each valid secret, the newest first."""
        return [self._of(keys, tls=self.tls) for keys in self._valid]

    @classmethod
    def joined(cls, keys: list[Key]) -> Key:
        """Return all of *keys* as one, the newest first. A secret that occurs twice counts once."""
        found: dict[bytes, _Keys] = {}
        for each in (each for key in keys for each in key._valid):
            found.setdefault(each.id, each)
        return cls._of(*found.values(), tls=next((key.tls for key in keys if key.tls is not None), None))

    def only(self, *roles: Role) -> Key:
        """Return only the keys of *roles*. No other key can be derived from them."""
        valid = (_Keys(each.id, None, {role: each.roles[role] for role in roles}) for each in self._valid)
        return self._of(*valid, tls=self.tls)

    def with_id(self, id: bytes) -> Key | None:
        """Return the keys of the secret of this *id*; None if there is none. `NO_ID` means the oldest secret."""
        if id == NO_ID:
            return self._of(self._valid[-1], tls=self.tls)
        return next((self._of(each, tls=self.tls) for each in self._valid if each.id == id), None)

    @property
    def text(self) -> str:
        """The secrets or the keys as text, for a file with mode 0600."""
        return ";".join(_text_of(each) for each in self._valid)

    @classmethod
    def of_text(cls, text: str) -> Key:
        """Return the key whose `text` is *text*.

        Raises:
            ValueError: *text* is not the text of a key.
        """
        return cls._of(*(_keys_of(part) for part in text.split(";")))

    def holds(self, role: int) -> bool:
        """Return whether this object has a key of *role*."""
        return role in self._valid[0].roles

    def strongest(self, *roles: Role) -> Role:
        """Return the first of *roles* of which this object has a key; the last one if it has none of them."""
        return next((role for role in roles if self.holds(role)), roles[-1])

    def sign(self, role: Role, label: bytes, *parts: bytes) -> bytes:
        """Return the HMAC-SHA256 of *label* and *parts* with the newest key of *role*, which this object must have."""
        return hmac.digest(self._valid[0].roles[role], label + b"".join(parts), "sha256")

    def of(self, role: Role) -> bytes:
        """Return the newest key of *role*, for a key file."""
        return self._valid[0].roles[role]

    def __getstate__(self) -> Any:
        """Return the state for a pickle. Without TLS it is that of earlier versions."""
        return None, {"_valid": self._valid} if self.tls is None else {"_valid": self._valid, "tls": self.tls}

    def replace(self, other: Key) -> None:
        """Become *other*. All that hold this object use its keys from now on. Any thread may call this."""
        self._valid = other._valid

    def limited_to(self, like: Key) -> Key:
        """Return the keys of the roles in *like*. If *like* has a secret and this object has none, return *like*."""
        if like._valid[0].secret is not None:
            return self if self._valid[0].secret is not None else like
        return self.only(*like._valid[0].roles)

    def covers(self, like: Key) -> bool:
        """Return whether this object has keys of all roles in *like*."""
        return self._valid[0].roles.keys() >= like._valid[0].roles.keys()

    def __setstate__(self, state: Any) -> None:
        """Take over the state of a pickle, also of one by an earlier version, which had one secret and no id."""
        slots = state[1]
        self.tls = slots.get("tls")
        if "_valid" in slots:
            self._valid = slots["_valid"]
        elif slots["_secret"] is not None:
            self._valid = Key(slots["_secret"])._valid
        else:
            self._valid = (_Keys(NO_ID, None, slots["_roles"]),)

    def __repr__(self) -> str:
        return "Key(...)"


def _check_length(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")


def _derived(key: bytes, role: Role) -> bytes:
    return hmac.digest(key, b"role" + bytes([role]), "sha256")


def _with_weaker(roles: dict[Role, bytes]) -> dict[Role, bytes]:
    """Return *roles* with the keys that derive from them."""
    for stronger, weaker in _DERIVED.items():  # in this order, because FORWARD derives from CALL
        if stronger in roles:
            roles[weaker] = _derived(roles[stronger], weaker)
    return roles


def _id_of(secret: bytes) -> bytes:
    return hmac.digest(secret, b"id", "sha256")[:ID_BYTES]


def _text_of(keys: _Keys) -> str:
    if keys.secret is not None:
        return keys.secret.hex()
    return ",".join((f"id:{keys.id.hex()}", *(f"{role.name.lower()}:{key.hex()}" for role, key in keys.roles.items())))


def _keys_of(text: str) -> _Keys:
    if ":" not in text:
        return Key(bytes.fromhex(text))._valid[0]
    values = {name: bytes.fromhex(value) for name, _, value in (part.partition(":") for part in text.split(","))}
    id = values.pop("id", NO_ID)
    try:
        return _Keys(id, None, {Role[name.upper()]: value for name, value in values.items()})
    except KeyError as error:
        raise ValueError(f"there is no role {error}") from None
