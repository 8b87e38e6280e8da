"""TLS around the handshake and the records of a TCP connection. The asyncio and the blocking ends share it.

Rule 1: it takes bytes and returns bytes, as `Handshake` does. It knows no socket, so both ends keep their own reads,
    writes and timeouts.
Rule 2: both ends have a certificate, and check that of the other end against the same authority. A host name in it is
    not checked, because the hosts of a cluster change. The handshake with keys follows inside.
Rule 3: the files are read again once they have changed. A new connection uses the new ones.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from typing import Final

from serve_bridge.config.tls import Tls
from serve_bridge.errors import AuthenticationError, ConfigError, ProtocolError
from serve_bridge.process.certificate_files import GivenFile, Stamps, load_authorities, load_pair, stamps_of
from serve_bridge.wire.handshake import MAGIC, Handshake, Refusal, TlsRefused, refused
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.seal import Records

_READ_BYTES: Final = 64 * 1024
_STEPS: Final = 4
"""Number of steps after which a handshake in memory has ended, for each side."""
_SCHEME: Final = "serve-bridge://"
_ENGINE: Final = "engine"
"""The role of a certificate that a process of the engine may have."""
_ROLES: Final = {
    "forward": frozenset({Role.FORWARD}),
    "call": frozenset({Role.FORWARD, Role.CALL}),
    "manage": frozenset({Role.FORWARD, Role.CALL, Role.MANAGE}),
    _ENGINE: frozenset(Role),
}
"""The roles on the wire that the role in a certificate allows."""
_ALERTS: Final = {
    "CERTIFICATE_EXPIRED": "it has expired; renew it",
    "UNKNOWN_CA": "another authority has signed it; use a certificate of the authority that the peer names as its CA",
    "BAD_CERTIFICATE": "it is not valid yet, or damaged; look at its dates and at the clocks",
    "UNSUPPORTED_CERTIFICATE": "it is for another purpose; it needs clientAuth, and serverAuth in the engine",
    "CERTIFICATE_REQUIRED": "it lacks",
}
"""Meanings of the peer's alerts about the certificate of this process."""

_logger = logging.getLogger("serve_bridge.wire")
_contexts: dict[tuple[Tls, bool], tuple[Stamps, ssl.SSLContext]] = {}


def context_of(tls: Tls, *, listens: bool) -> ssl.SSLContext:
    """Return the context for new connections. If the files are faulty after a change, the old context is used.

    Raises:
        ConfigError: The files cannot be used, and this process has not used them before.
    """
    stamps = stamps_of((tls.cert, tls.key, tls.ca))
    known = _contexts.get((tls, listens))
    if known is not None and known[0] == stamps:
        return known[1]
    try:
        context = _loaded(tls, listens=listens)
    except ConfigError as error:
        if known is None:
            raise
        _logger.warning("the certificate of the data plane stays as it was: %s", error)
        context = known[1]
    _contexts[tls, listens] = stamps, context
    return context


def _loaded(tls: Tls, *, listens: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the authority may be an intermediate one
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if listens:
        context.num_tickets = 0  # no connection is resumed
    load_pair(context, GivenFile(tls.named("cert"), tls.cert), GivenFile(tls.named("key"), tls.key))
    load_authorities(context, GivenFile(tls.named("ca"), tls.ca))
    return context


def check_files(tls: Tls) -> None:
    """Check that a process of the engine can use the files of *tls*: both ends of a connection would accept them today.

    The starter of an instance must learn of an expired certificate. A process that restarts at night must start even
    with it, because unix sockets need none, so processes of the engine do not call this function.

    Raises:
        ConfigError: The files cannot be read, the certificate has expired, another authority has signed it, or it is
            for another instance or for web hosts.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context_of(tls, listens=False).wrap_bio(to_client, to_server)
    server = context_of(tls, listens=True).wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server) * _STEPS:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(
                f"{tls.named('cert')} {tls.cert!r}: {error.verify_message}; it was checked against "
                f"{tls.named('ca')} {tls.ca!r}; renew it, or give the authority that has signed it"
            ) from None
    uris, roles = _roles_of(client, tls.instance)
    if uris and _ENGINE not in roles:
        raise ConfigError(
            f"{tls.named('cert')} {tls.cert!r} is for {', '.join(uris)}, and the engine needs "
            f"{_SCHEME}{tls.instance}/{_ENGINE}; give a certificate with this URI, or one without a URI of this scheme"
        )


def _roles_of(connection: ssl.SSLObject, instance: str) -> tuple[list[str], list[str]]:
    """Return the URIs with roles in the peer's certificate, and the roles among them in *instance*."""
    names = (connection.getpeercert() or {}).get("subjectAltName", ())
    uris = [str(name[1]) for name in names if name[0] == "URI" and str(name[1]).startswith(_SCHEME)]
    begin = f"{_SCHEME}{instance}/"
    return uris, [uri.removeprefix(begin) for uri in uris if uri.startswith(begin)]


class TlsHandshake:
    """One side of the handshake over TLS. Its attributes and methods are those of `Handshake`."""

    def __init__(self, inner: Handshake, tls: Tls, *, caller: bool) -> None:
        """Perform the handshake *inner* over a TLS connection.

        Raises:
            TlsRefused: The files of *tls* cannot be used.
        """
        self._inner = inner
        self._tls = tls
        self._caller = caller
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            context = context_of(tls, listens=not caller)
        except ConfigError as error:
            raise TlsRefused(str(error)) from None
        self._connection = context.wrap_bio(self._incoming, self._outgoing, server_side=not caller)
        self._heard = False
        self._encrypted = False
        self.done: bool = False
        self.rest: bytes = b""
        self.last_words: bytes = b""

    @property
    def peer_role(self) -> Role:
        """The peer's role, once `done`."""
        return self._inner.peer_role

    @property
    def has_peer_hello(self) -> bool:
        """Whether the peer's hello has arrived, inside TLS."""
        return self._inner.has_peer_hello

    @property
    def version(self) -> int:
        """The version of the protocol, once `has_peer_hello`."""
        return self._inner.version

    @property
    def key_id(self) -> bytes:
        """Id of the secret from which the caller's key derives, once `done`."""
        return self._inner.key_id

    def start(self) -> bytes:
        """Return the bytes that this side sends first."""
        return self._advance() if self._caller else b""

    def feed(self, data: bytes) -> bytes:
        """Process the peer's *data*, and return the bytes to send back.

        Raises:
            AuthenticationError: The peer does not belong to the instance. Send `last_words`, and close.
        """
        if not self._heard:
            self._heard = True
            self._check_first(data)
        self._incoming.write(data)
        return self._advance()

    def seals(self) -> tuple[Records, Records]:
        """Return what protects the data in both directions."""
        out, into = self._inner.seals()
        return (
            TlsRecords(self._connection, self._incoming, self._outgoing, out),
            TlsRecords(self._connection, self._incoming, self._outgoing, into, self._inner.rest),
        )

    def _advance(self) -> bytes:
        try:
            if not self._encrypted:
                self._connection.do_handshake()
                self._encrypted = True
                self._check_certificate()
                _write(self._connection, self._inner.start())
            plain = b"".join(_pieces(self._connection))
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        except ssl.SSLError as error:
            self.last_words = self._outgoing.read()
            raise TlsRefused(self._text_of(error)) from None
        if plain:
            try:
                _write(self._connection, self._inner.feed(plain))
            except AuthenticationError:
                _write(self._connection, self._inner.last_words)
                self.last_words = self._outgoing.read()
                raise
        self.done = self._inner.done
        return self._outgoing.read()

    def _check_first(self, data: bytes) -> None:
        """Refuse a peer that speaks without TLS, with the reason."""
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            return
        if self._caller:
            raise refused(Refusal.TLS)
        try:
            self._inner.refuse(Refusal.PLAIN)
        finally:
            self.last_words = self._inner.last_words

    def _check_certificate(self) -> None:
        """Read from the URIs in the peer's certificate which role it may have. Without such a URI it may have any.

        Raises:
            TlsRefused: The certificate is for another instance, or a listener's is not for the engine.
        """
        uris, roles = _roles_of(self._connection, self._tls.instance)
        if not uris:
            return
        if not self._caller:
            self._inner.allowed = frozenset().union(*(_ROLES.get(role, frozenset()) for role in roles))
        elif _ENGINE not in roles:
            raise TlsRefused(
                f"the peer's certificate is for {uris[0]}, and the engine needs "
                f"{_SCHEME}{self._tls.instance}/{_ENGINE}; correct the name in the address, or renew the certificate"
            )

    def _text_of(self, error: ssl.SSLError) -> str:
        """Return what *error* means, with the way out."""
        tls, reason = self._tls, error.reason or ""
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the peer's certificate is refused: {error.verify_message}; it needs a valid one by the authority in "
                f"{tls.named('ca')}={tls.ca}"
            )
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return f"the peer has no certificate; it needs one by the authority in {tls.named('ca')}={tls.ca}"
        alert = reason.partition("_ALERT_")[2]
        if alert in _ALERTS:
            return f"the peer refuses the certificate {tls.named('cert')}={tls.cert}: {_ALERTS[alert]}"
        return f"the TLS handshake failed: {reason.replace('_', ' ').lower() or error}; both ends need TLS 1.3"


def handshake_of_caller(key: Key, role: Role, identity: bytes, tls: Tls | None) -> Handshake | TlsHandshake:
    """Return the handshake of a caller in *role*, over TLS if *tls* is given.

    Raises:
        TlsRefused: The files of *tls* cannot be used.
    """
    handshake = Handshake(key, role, identity, caller=True)
    return handshake if tls is None else TlsHandshake(handshake, tls, caller=True)


def handshake_of_listener(key: Key, identity: bytes, alias: bytes, tls: Tls | None) -> Handshake | TlsHandshake:
    """Return the handshake of a listener, over TLS if *tls* is given."""
    handshake = Handshake(key, Role.LISTENER, identity, caller=False, alias=alias)
    return handshake if tls is None else TlsHandshake(handshake, tls, caller=False)


class TlsRecords:
    """The data of one direction of a connection with TLS: the records of `Seal` inside those of TLS."""

    def __init__(
        self,
        connection: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        inner: Records,
        rest: bytes = b"",
    ) -> None:
        """Send or receive on *connection*; *rest* was received already."""
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing
        self._inner = inner
        self._rest = rest

    def close(self, data: bytes) -> bytes:
        """Return *data* as records for the peer."""
        _write(self._connection, self._inner.close(data))
        return self._outgoing.read()

    def open(self, data: bytes) -> bytes:
        """Return the data of the records that *data* completes.

        Raises:
            ProtocolError: A record was changed, dropped, repeated or moved.
        """
        self._incoming.write(data)
        rest, self._rest = self._rest, b""
        try:
            return self._inner.open(rest + b"".join(_pieces(self._connection)))
        except ssl.SSLError as error:
            raise ProtocolError(f"the TLS connection ended: {error.reason or error}") from None


def _write(connection: ssl.SSLObject, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # one call takes one record
        rest = rest[connection.write(rest) :]


def _pieces(connection: ssl.SSLObject) -> Iterator[bytes]:
    try:
        while piece := connection.read(_READ_BYTES):
            yield piece
    except ssl.SSLWantReadError:
        return
