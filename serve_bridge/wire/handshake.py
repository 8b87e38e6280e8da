"""The handshake by which both ends of a connection prove that they hold the key of the caller's role.

Rule 1: it takes bytes and returns bytes. It knows no socket and no clock.
Rule 2: before the proofs are checked, only hellos of a fixed length are parsed.

::

    caller                                       listener
      hello: magic 7 | version 1 | role 1 | newest 1 | key id 6 | nonce 32 | identity 16     ->
      <-   the listener's hello, 64 bytes of the same layout, and its proof, 32 bytes
      proof, 32 bytes; frames may follow at once                             ->

    role key = HMAC-SHA256(secret, "role" | role)
    proof    = HMAC-SHA256(role key, side | caller's hello | listener's hello)        (RFC 2104)

The first nine bytes of a hello have the same meaning in every version. The caller offers a range: `version` is the
oldest version that it speaks, and `newest` the newest one; 0 if both are the same. The listener chooses the highest
version that both speak, and answers with it as its `version`. If there is none, the listener sends its own range in a
hello before it closes. So the errors of both sides can name both ranges.

Version 2 has no `newest`, no key id, and only the roles EDGE, PYTHON and CONTROLLER. Its peers send zeros instead.
Version 3 has all of these, and calls with plain data. Its listeners may send GOAWAY right behind their proof.

The key id says from which of the valid secrets the caller's key derives. Earlier peers send zeros there, and do
not look at it. A listener that refuses a hello for another reason sends a hello whose role is the reason (`Refusal`).

Each proof covers both nonces, roles and identities, so an attacker cannot replay, reflect or downgrade it. Over TCP,
each record has a MAC as well (`Seal`). The data is not encrypted. With certificates, TLS is around it (`TlsHandshake`).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from enum import IntEnum
from typing import Final, NoReturn

from serve_bridge.errors import AuthenticationError
from serve_bridge.wire.keys import NO_ID, Key, Role
from serve_bridge.wire.seal import Seal

MAGIC: Final = b"SBRIDGE"
TLS_FIRST: Final = b"\x16"
"""First byte of a TLS connection."""
OLDEST: Final = 2
"""The oldest version of the protocol that this process speaks."""
VERSION: Final = 3
"""The newest version of the protocol that this process speaks."""
HELLO_BYTES: Final = 64
PROOF_BYTES: Final = 32
HANDSHAKE_TIMEOUT_S: Final = 1.0
"""Upper limit for a handshake, in seconds."""
_HELLO = struct.Struct("<7sBBB6s32s16s")


class VersionMismatch(AuthenticationError):
    """The peer speaks other versions of the protocol."""


class Refusal(IntEnum):
    """Why a listener refuses a hello. It is not authenticated, so it serves for error texts only."""

    ROLE = 129
    IDENTITY = 130
    KEY = 131
    PLAIN = 132
    TLS = 133
    CERTIFICATE = 134


class RoleRefused(AuthenticationError):
    """The listener does not serve the caller's role."""


class AnotherListener(AuthenticationError):
    """Another process listens than the caller expects."""


class TlsRefused(AuthenticationError):
    """One end speaks TLS and the other one does not, or an end does not accept the other end's certificate."""


class UnknownKey(AuthenticationError):
    """The listener knows no secret with the id of the caller's key."""


_REFUSALS: Final = {
    Refusal.ROLE: (RoleRefused, "the peer claims a role that it cannot have", "the peer does not serve this role"),
    Refusal.IDENTITY: (
        AnotherListener,
        "the peer wants to reach another process, or another start of the instance",
        "the peer is another process than expected, or another start of the instance",
    ),
    Refusal.KEY: (
        UnknownKey,
        "the peer's key was retired, or is of another instance",
        "the peer does not know this key: it was retired, or is of another instance",
    ),
    Refusal.PLAIN: (
        TlsRefused,
        "the peer speaks without TLS; set SERVE_BRIDGE_TLS_CERT, SERVE_BRIDGE_TLS_KEY and SERVE_BRIDGE_TLS_CA there",
        "the peer speaks TLS only; set SERVE_BRIDGE_TLS_CERT, SERVE_BRIDGE_TLS_KEY and SERVE_BRIDGE_TLS_CA",
    ),
    Refusal.TLS: (
        TlsRefused,
        "the peer speaks TLS, but this instance was started without tls_cert, tls_key and tls_ca",
        "the peer listens without TLS; start the instance with tls_cert, tls_key and tls_ca, or unset "
        "SERVE_BRIDGE_TLS_CERT, SERVE_BRIDGE_TLS_KEY and SERVE_BRIDGE_TLS_CA, and remove NAME.tls-*.pem beside the key "
        "file",
    ),
    Refusal.CERTIFICATE: (
        TlsRefused,
        "the peer's certificate does not allow the role that it claims",
        "the URI in the certificate of this process does not allow the role of its key in this instance; use the key "
        "file of that role, or a certificate for this one",
    ),
}
"""The error of each refusal, and its text for the listener and for the caller."""


def refused(refusal: Refusal) -> AuthenticationError:
    """Return the error of *refusal* for the caller."""
    error, _, told = _REFUSALS[refusal]
    return error(told)


def identity(generation: str, name: str) -> bytes:
    """Return the 16 bytes in a hello by which listener *name* of instance *generation* is identified."""
    return hashlib.sha256(f"{generation}/{name}".encode()).digest()[:16]


def any_generation(instance: str) -> str:
    """Return what stands for the generation in the alias of a controller: every start of *instance* has this one."""
    return f"instance {instance}"  # a generation has no space


class Handshake:
    """One side of the handshake.

    Attributes:
        done: Whether the peer's proof was valid.
        peer_role: The peer's role, once `done`.
        version: The version of both sides, once `has_peer_hello`.
        key_id: Id of the secret from which the caller's key derives, once `done`.
        last_words: Bytes to send to a refused peer before the connection closes.
        rest: Bytes that arrived after the handshake, once `done`.
        allowed: The roles that the caller's certificate allows; None: any. It is set before `feed`.
    """

    def __init__(
        self,
        key: Key,
        role: Role,
        identity: bytes,
        *,
        caller: bool,
        alias: bytes = b"",
        versions: tuple[int, int] = (OLDEST, VERSION),
    ) -> None:
        """Take part as *role*. A caller's *key* must hold that role. Both sides must give the listener's *identity*.

        A listener may have an *alias*, under which callers reach it too. *versions* are the oldest and the newest one
        that this side speaks.
        """
        self._oldest, self._newest = versions
        self.version: int = self._oldest
        self._key = key
        self._role = role
        self._caller = caller
        self._identity = identity
        self._alias = alias
        self._nonce = secrets.token_bytes(32)
        self.key_id = key.id if caller else NO_ID
        self._hello = self._hello_of(role, self.key_id)
        self._peer_hello = b""
        self._buffer = b""
        self.done: bool = False
        self.peer_role: Role = Role.LISTENER
        self.rest: bytes = b""
        self.last_words: bytes = b""
        self.allowed: frozenset[Role] | None = None

    def _hello_of(self, role: int, key_id: bytes) -> bytes:
        newest = 0 if self._oldest == self._newest else self._newest
        return _HELLO.pack(MAGIC, self.version, role, newest, key_id, self._nonce, self._identity)

    def start(self) -> bytes:
        """Return the bytes that this side sends first."""
        return self._hello if self._caller else b""

    def feed(self, data: bytes) -> bytes:
        """Process the peer's *data*, and return the bytes to send back. Afterwards `done` tells whether it has ended.

        Raises:
            AuthenticationError: The peer does not belong to the instance. Send `last_words`, and close.
        """
        self._buffer += data
        return self._feed_caller() if self._caller else self._feed_listener()

    @property
    def has_peer_hello(self) -> bool:
        """Whether the peer's hello has arrived. Before that, a listener has sent nothing."""
        return bool(self._peer_hello)

    def seals(self) -> tuple[Seal, Seal]:
        """Return the seals for sending and for receiving."""
        hellos = self._hellos()
        up, down = (Seal(self._sign(side, *hellos)) for side in (b"seal up", b"seal down"))
        return (up, down) if self._caller else (down, up)

    def _feed_caller(self) -> bytes:
        if len(self._buffer) < HELLO_BYTES + PROOF_BYTES:
            self._check_prefix()
            if len(self._buffer) >= HELLO_BYTES:
                self._agree(self._buffer[7], self._buffer[9])
                self._check_refusal(self._buffer[8])
            return b""
        self._take_hello()
        self._take_proof(b"listener")
        return self._sign(b"caller", *self._hellos())

    def _feed_listener(self) -> bytes:
        if not self._peer_hello:
            self._check_prefix()
            if len(self._buffer) < HELLO_BYTES:
                return b""
            self._take_hello()
            return self._hello + self._sign(b"listener", *self._hellos())
        if len(self._buffer) >= PROOF_BYTES:
            self._take_proof(b"caller")
        return b""

    def _check_prefix(self) -> None:
        if self._buffer[:7] != MAGIC[: len(self._buffer)]:
            if self._buffer[:1] == TLS_FIRST and not self._caller:
                self.refuse(Refusal.TLS)
            raise AuthenticationError("the peer does not speak this protocol")

    def _take_hello(self) -> None:
        hello, self._buffer = self._buffer[:HELLO_BYTES], self._buffer[HELLO_BYTES:]
        magic, version, role, newest, key_id, _, identity = _HELLO.unpack(hello)
        if magic != MAGIC:
            raise AuthenticationError("the peer does not speak this protocol")
        self._agree(version, newest)
        if self._caller:
            self._check_refusal(role)
            if role != Role.LISTENER:
                raise AuthenticationError("the peer claims a role that it cannot have")
            if identity != self._identity:
                raise AnotherListener(_REFUSALS[Refusal.IDENTITY][2])
        else:
            self._check_caller(role, key_id, identity)
        self._peer_hello, self.peer_role = hello, Role(role)

    def _check_caller(self, role: int, key_id: bytes, identity: bytes) -> None:
        """Choose the key and the identity that the caller means, or refuse it."""
        key = self._key.with_id(key_id)
        if not self._key.holds(role):
            self.refuse(Refusal.ROLE)
        if self.allowed is not None and role not in self.allowed:
            self.refuse(Refusal.CERTIFICATE)
        if identity not in (self._identity, self._alias):
            self.refuse(Refusal.IDENTITY)
        if key is None:
            self.refuse(Refusal.KEY)
        self._key, self.key_id, self._identity = key, key.id, identity
        self._hello = self._hello_of(self._role, key_id)

    def refuse(self, refusal: Refusal) -> NoReturn:
        """Set `last_words`, and raise the error for the listener."""
        self.last_words = self._hello_of(refusal, NO_ID)
        error, own, _ = _REFUSALS[refusal]
        raise error(own)

    def _check_refusal(self, role: int) -> None:
        if role in _REFUSALS:
            raise refused(Refusal(role))

    def _agree(self, version: int, newest: int) -> None:
        """Note the version of both sides. A caller gets the chosen *version*, and a listener the oldest one offered."""
        newest = newest or version
        agreed = version if self._caller else min(newest, self._newest)
        if not max(version, self._oldest) <= agreed <= self._newest:
            if not self._caller:
                self.last_words = self._hello
            raise VersionMismatch(
                f"the peer speaks {_shown(version, newest)} of the protocol between the processes of an instance, and "
                f"this process speaks {_shown(self._oldest, self._newest)}; install the same version of serve-bridge "
                "on both sides"
            )
        self.version = agreed

    def _take_proof(self, side: bytes) -> None:
        proof, self.rest = self._buffer[:PROOF_BYTES], self._buffer[PROOF_BYTES:]
        self._buffer = b""
        if not hmac.compare_digest(proof, self._sign(side, *self._hellos())):
            raise AuthenticationError("the peer does not hold this instance's key")
        self.done = True

    def _sign(self, label: bytes, *parts: bytes) -> bytes:
        """Sign with the key of the caller's role, which both sides hold."""
        return self._key.sign(self._role if self._caller else self.peer_role, label, *parts)

    def _hellos(self) -> tuple[bytes, bytes]:
        own, peer = self._hello, self._peer_hello
        return (own, peer) if self._caller else (peer, own)


def _shown(oldest: int, newest: int) -> str:
    return f"version {oldest}" if oldest == newest else f"versions {oldest} to {newest}"
