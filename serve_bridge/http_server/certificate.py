"""The server's certificate, read from the files of `HTTPOptions`.

Rule 1: a fault in a file raises a ConfigError with the name of the file, before the server listens.
Rule 2: no code asks for a password on a terminal, and no message contains the password.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from typing import Final

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.errors import ConfigError
from serve_bridge.http_server.client_hello import PROTOCOL
from serve_bridge.process.certificate_files import GivenFile, Stamps, load_authorities, load_pair, stamps_of

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
        load_authorities(context, GivenFile("ssl_ca_certs", options.ssl_ca_certs))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, options: HTTPOptions) -> None:
    """Load the certificate of *options* into *context*. Open connections keep their old certificate.

    Raises:
        ConfigError: As `server_context`.
    """
    certificate, key = options.ssl_certfile, options.ssl_keyfile
    assert certificate is not None
    load_pair(
        context,
        GivenFile("ssl_certfile", certificate),
        None if key is None else GivenFile("ssl_keyfile", key),
        options.ssl_keyfile_password,
    )


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

    def _stamps(self) -> Stamps:
        paths = (self._options.ssl_certfile, self._options.ssl_keyfile)
        return stamps_of(path for path in paths if path is not None)


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
