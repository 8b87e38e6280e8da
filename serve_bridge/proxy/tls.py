"""The certificate that a proxy shows, read from the files that `HTTPOptions` names.

Rule 1: what is wrong with a file is a ConfigError that names it, before anything listens.
Rule 2: nothing is asked on a terminal, and the password is in no message.
"""

from __future__ import annotations

import logging
import os
import ssl
from contextlib import suppress
from typing import Final

from serve_bridge.config import HTTPOptions
from serve_bridge.errors import ConfigError

__all__ = ["Renewal", "check_certificate", "server_context"]

_OUT_OF_DATE: Final = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""

_HANDSHAKE_STEPS: Final = 4

_logger = logging.getLogger("serve_bridge.proxy")


def server_context(options: HTTPOptions) -> ssl.SSLContext | None:
    """Return what TLS connections are made with; None: *options* name no certificate.

    Raises:
        ConfigError: A file is missing, unreadable or no PEM, or the key is not the certificate's.
    """
    if options.ssl_certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, options)
    if options.ssl_ca_certs is not None:
        _load_authorities(context, "ssl_ca_certs", options.ssl_ca_certs)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


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


def _check_readable(name: str, path: str) -> None:
    """Open a file as OpenSSL will, whose own errors do not name it."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{name} {path!r}: {error.strerror or error}") from None
