"""Certificates for tests, in files, each signed by an authority of its own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost.

    Attributes:
        certificate, key: Files with the certificate and its key.
        authority: Who has signed it.
    """

    certificate: Path
    key: Path
    authority: trustme.CA

    @property
    def options(self) -> dict[str, Any]:
        """What a server needs, as in `HTTPOptions`."""
        return {"ssl_certfile": str(self.certificate), "ssl_keyfile": str(self.key)}

    @property
    def client(self) -> ssl.SSLContext:
        """What a client needs that trusts it."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def encrypted_key(self, password: str) -> Path:
        """Return a file with the key, encrypted."""
        key = load_pem_private_key(self.key.read_bytes(), None)
        file = self.key.with_suffix(".encrypted")
        file.touch(mode=0o600)
        file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
        )
        return file


def make_certificate(directory: Path, name: str = "server", *, days: tuple[float, float] = (-1, 30)) -> Certificate:
    """Make a certificate that is valid from and until so many *days* from now."""
    authority = trustme.CA()
    now = datetime.now(UTC)
    begin, end = (now + timedelta(days=each) for each in days)
    made = authority.issue_cert("localhost", "127.0.0.1", not_before=begin, not_after=end)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(made.private_key_pem.bytes())
    return Certificate(certificate, key, authority)
