"""The certificate that a proxy shows, read from the files that `HTTPOptions` names.

Rule 1: what is wrong with a file is a ConfigError that names it, before anything listens.
Rule 2: nothing is asked on a terminal, and the password is in no message.
"""

from __future__ import annotations

import logging
import os
import ssl
import stat
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.errors import ConfigError
from serve_bridge.http_server.acceptor import accepted

__all__ = ["Renewal", "check_certificate", "listening_context", "protocols_offered", "server_context"]

_OUT_OF_DATE: Final = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""

_HANDSHAKE_STEPS: Final = 4

PROTOCOL: Final = "http/1.1"
"""The only protocol that is spoken here, by its name in ALPN."""

_ALPN: Final = 16
_CLIENT_HELLO: Final = 1
_NO_APPLICATION_PROTOCOL: Final = 120
"""Number of the extension (RFC 7301), of the message (RFC 8446), and of the alert (RFC 7301)."""
_ALERT: Final = bytes((21, 3, 3, 0, 2, 2, _NO_APPLICATION_PROTOCOL))
"""The record of this alert, which is fatal."""

_logger = logging.getLogger("serve_bridge.proxy")


def server_context(options: HTTPOptions) -> ssl.SSLContext | None:
    """Return what TLS connections are made with; None: *options* name no certificate.

    Raises:
        ConfigError: A file is missing, unreadable or no PEM, the key is not the certificate's, or other users can
            read it.
    """
    if options.ssl_certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([PROTOCOL])
    load_certificate(context, options)
    if options.ssl_ca_certs is not None:
        _load_authorities(context, "ssl_ca_certs", options.ssl_ca_certs)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def listening_context(serving: ssl.SSLContext) -> ssl.SSLContext:
    """Return the context in which connections begin, which hands them over to *serving* once it knows their protocols.

    A client that offers protocols, but not HTTP/1.1, gets the alert `no_application_protocol` (RFC 7301 section 3.2).
    Python's own selection goes on without a protocol, so such a client would speak HTTP/2 to a server of HTTP/1.1.
    *serving* has no message callback, which would cost each record that is sent or received.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.verify_mode = serving.verify_mode
    offers: WeakKeyDictionary[object, list[bytes] | None] = WeakKeyDictionary()

    def read(connection: object, direction: str, _version: Any, _content: Any, kind: Any, message: bytes) -> None:
        if direction == "read" and kind == _CLIENT_HELLO:
            offers[connection] = protocols_offered(message)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        offered = offers.pop(connection, None)
        if offered is not None and PROTOCOL.encode() not in offered:
            # The event loop drops what OpenSSL would send of a handshake that fails. Nothing was sent before the
            # alert, so that it fits into the buffer of the socket, and no key is agreed upon, so that it is plain.
            with suppress(OSError, LookupError):
                accepted.get().send(_ALERT)
            return _NO_APPLICATION_PROTOCOL
        connection.context = serving
        return None

    context._msg_callback = read  # type: ignore[attr-defined]
    context.sni_callback = choose
    return context


def protocols_offered(hello: bytes) -> list[bytes] | None:
    """Return the protocols that a ClientHello (RFC 8446 section 4.1.2) offers by ALPN; None: it offers none.

    A malformed one offers none; OpenSSL refuses it.
    """
    reader = _Reader(hello)
    try:
        reader.take(4 + 2 + 32)  # the header of the message, version, random
        for size in (1, 2, 1):  # session id, cipher suites, compression methods
            reader.vector(size)
        extensions = _Reader(reader.vector(2))
        while extensions.left:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == _ALPN:
                names, found = _Reader(_Reader(content).vector(2)), []
                while names.left:
                    found.append(names.vector(1))
                return found
    except EOFError:
        pass
    return None


class _Reader:
    """Reads numbers and vectors of TLS from bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes.

        Raises:
            EOFError: There are fewer.
        """
        if count > self.left:
            raise EOFError
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        """Return a number of *size* bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Return the content of a vector whose length has *size* bytes."""
        return self.take(self.number(size))


def load_certificate(context: ssl.SSLContext, options: HTTPOptions) -> None:
    """Let *context* show the certificate of *options*; connections that are open keep the one they began with.

    Raises:
        ConfigError: As `server_context`.
    """
    certificate, key = options.ssl_certfile, options.ssl_keyfile
    assert certificate is not None
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "ssl_certfile", certificate)
    named = f"ssl_certfile {certificate!r}"
    if key is not None:
        _check_readable("ssl_keyfile", key)
        named = f"ssl_keyfile {key!r} for {named}"
    try:
        # With None for a password, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, options.ssl_keyfile_password or "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{named}: the key is not the certificate's") from None
        raise ConfigError(
            f"{named}: no private key in PEM form, or ssl_keyfile_password is wrong ({error.reason or 'unreadable'})"
        ) from None
    _check_private("ssl_certfile" if key is None else "ssl_keyfile", key or certificate)


class Renewal:
    """Lets a context show the certificate that was put in the place of the one it shows."""

    def __init__(self, context: ssl.SSLContext, options: HTTPOptions) -> None:
        self._context = context
        self._options = options
        self._seen = self._stamps()

    def look(self) -> None:
        """Load the files again if they have changed; what cannot be used is left alone, with a warning."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            server_context(self._options)  # a pair that does not fit must not reach a context in use
            load_certificate(self._context, self._options)
        except ConfigError as error:
            _logger.warning("the TLS certificate stays as it was: %s", error)
        else:
            _logger.info("the TLS certificate was renewed")

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        paths = (self._options.ssl_certfile, self._options.ssl_keyfile)
        return [_stamp(path) for path in paths if path is not None]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def check_certificate(options: HTTPOptions) -> None:
    """Check the files that *options* name, and that the certificate is valid today.

    Whoever starts an instance wants to hear of an old certificate. A proxy that is started again in the night is
    better served with it than not at all, so proxies themselves do not look.

    Raises:
        ConfigError: As `server_context`, or the certificate has expired or is not valid yet.
    """
    context = server_context(options)
    if context is None:
        return
    context.verify_mode = ssl.CERT_NONE
    assert options.ssl_certfile is not None
    reason = _out_of_date(context, options.ssl_certfile)
    if reason is not None:
        raise ConfigError(f"ssl_certfile {options.ssl_certfile!r}: {reason}")


def _out_of_date(context: ssl.SSLContext, certificate: str) -> str | None:
    """Return why a client that trusts the very certificate refuses it for its dates, or None."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server) * _HANDSHAKE_STEPS:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OUT_OF_DATE:
            return error.verify_message
    return None


def _load_authorities(context: ssl.SSLContext, name: str, path: str) -> None:
    _check_readable(name, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(f"{name} {path!r}: no certificate in PEM form") from None


def _check_private(name: str, path: str) -> None:
    """Refuse the file of a key that other users can read. A key of root may be readable by a group of its readers."""
    found = os.stat(path)
    shared = stat.S_IRWXO | stat.S_IRWXG
    if found.st_uid == 0 != os.geteuid():
        shared &= ~stat.S_IRGRP
    if found.st_mode & shared:
        raise ConfigError(f"{name} {path!r} holds a key and must be readable by its user alone; chmod 600 {path}")


def _check_readable(name: str, path: str) -> None:
    """Open a file as OpenSSL will, whose own errors do not name it."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{name} {path!r}: {error.strerror or error}") from None
