"""Files with certificates and their keys, for the HTTP server and for the data plane.

Rule 1: a fault in a file raises a ConfigError with the option and the path of the file.
Rule 2: no code asks for a password on a terminal, and no message contains the password.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from serve_bridge.errors import ConfigError

Stamps: TypeAlias = list[tuple[int, int, int] | None]


class GivenFile(NamedTuple):
    """A file, and the option that names it."""

    option: str
    path: str

    def __str__(self) -> str:
        return f"{self.option} {self.path!r}"


def load_pair(
    context: ssl.SSLContext, certificate: GivenFile, key: GivenFile | None, password: str | None = None
) -> None:
    """Load *certificate* and its *key* into *context*. Without *key*, the file of the certificate holds the key too.

    Raises:
        ConfigError: A file is missing, unreadable or not in PEM form. Or the key does not belong to the certificate. Or
            other users can read the key.
    """
    load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)
    named = str(certificate)
    if key is not None:
        _check_readable(key)
        named = f"{key} for {named}"
    try:
        # Without a password, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(certificate.path, None if key is None else key.path, password or "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{named}: the key is not the certificate's; give the one that is") from None
        raise ConfigError(
            f"{named}: no private key in PEM form, or {_password_of(certificate)} ({error.reason or 'unreadable'}); "
            "give the path of the certificate's key"
        ) from None
    _check_private(key or certificate)


def load_authorities(context: ssl.SSLContext, file: GivenFile) -> None:
    """Let *context* trust the certificates in *file*.

    Raises:
        ConfigError: The file is missing, unreadable or not in PEM form.
    """
    _check_readable(file)
    try:
        context.load_verify_locations(file.path)
    except ssl.SSLError:
        raise ConfigError(f"{file}: the file holds no certificate in PEM form; give one that does") from None


def stamps_of(paths: Iterable[str]) -> Stamps:
    """Return what changes when one of the files at *paths* is replaced."""
    return [_stamp(path) for path in paths]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _password_of(certificate: GivenFile) -> str:
    return "ssl_keyfile_password is wrong" if certificate.option.startswith("ssl_") else "it needs a password"


def _check_private(file: GivenFile) -> None:
    """Refuse a key file if other users can read it. Exception: its group may read a key owned by root.

    Raises:
        ConfigError: Other users can read the file.
    """
    found = os.stat(file.path)
    shared = stat.S_IRWXO | stat.S_IRWXG
    if found.st_uid == 0 != os.geteuid():
        shared &= ~stat.S_IRGRP
    if found.st_mode & shared:
        raise ConfigError(f"{file} holds a key and must be readable by its user alone; chmod 600 {file.path}")


def _check_readable(file: GivenFile) -> None:
    """Open a file before OpenSSL does, because errors of OpenSSL do not name the file.

    Raises:
        ConfigError: The file cannot be opened, or is not a regular one.
    """
    try:
        # O_NONBLOCK, because the open of a FIFO would wait for a writer.
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}; give the path of a file in PEM form") from None
    if not stat.S_ISREG(mode):
        # OpenSSL would read a FIFO or a device without an end, and a pipe cannot be read again.
        what = "Is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise ConfigError(f"{file}: {what}; give the path of a file in PEM form")
