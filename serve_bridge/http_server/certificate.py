"""The server's certificate, read from the files of `HTTPOptions`.

Rule 1: a fault in a file raises a ConfigError with the name of the file, before the server listens.
Rule 2: no code asks for a password on a terminal, and no message contains the password.
"""

from __future__ import annotations

import logging
import os
import ssl
import stat
from contextlib import suppress
from typing import Final

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.errors import ConfigError
from serve_bridge.http_server.client_hello import PROTOCOL

__all__ = ["CertificateRenewal", "check_certificate", "server_context"]

_logger = logging.getLogger("serve_bridge.proxy")

_OUT_OF_DATE: Final = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""

_HANDSHAKE_STEPS: Final = 4
"""Number of steps after which a handshake in memory has ended, for each side."""


def server_context(options: HTTPOptions) -> ssl.SSLContext | None:
    """Return the context for TLS connections; None: *options* name no certificate.

    Raises:
        ConfigError: A file is missing, unreadable or not in PEM form. Or the key does not belong to the certificate. Or
            other users can read the key.
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


def load_certificate(context: ssl.SSLContext, options: HTTPOptions) -> None:
    """Load the certificate of *options* into *context*. Open connections keep their old certificate.

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
        # Without a password, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(certificate, key, options.ssl_keyfile_password or "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{named}: the key is not the certificate's") from None
        raise ConfigError(
            f"{named}: no private key in PEM form, or ssl_keyfile_password is wrong ({error.reason or 'unreadable'})"
        ) from None
    _check_private("ssl_certfile" if key is None else "ssl_keyfile", key or certificate)


class CertificateRenewal:
    """Loads a new certificate into a context in use when the files change."""

    def __init__(self, context: ssl.SSLContext, options: HTTPOptions) -> None:
        self._context = context
        self._options = options
        self._seen = self._stamps()

    def look(self) -> None:
        """Load the files again if they have changed. If they are faulty, log a warning and keep the old certificate."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            server_context(self._options)  # a faulty pair must not reach a context in use
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

    A user who starts an instance must learn of an expired certificate. A proxy that restarts at night must start even
    with it, so proxies do not call this function.

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
    """Return why a client refuses the certificate because of its dates, or None. The client trusts it otherwise."""
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
        raise ConfigError(f"{name} {path!r}: the file holds no certificate in PEM form") from None


def _check_private(name: str, path: str) -> None:
    """Refuse a key file if other users can read it. Exception: its group may read a key owned by root.

    Raises:
        ConfigError: Other users can read the file.
    """
    found = os.stat(path)
    shared = stat.S_IRWXO | stat.S_IRWXG
    if found.st_uid == 0 != os.geteuid():
        shared &= ~stat.S_IRGRP
    if found.st_mode & shared:
        raise ConfigError(f"{name} {path!r} holds a key and must be readable by its user alone; chmod 600 {path}")


def _check_readable(name: str, path: str) -> None:
    """Open a file before OpenSSL does, because errors of OpenSSL do not name the file.

    Raises:
        ConfigError: The file cannot be opened.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{name} {path!r}: {error.strerror or error}") from None
