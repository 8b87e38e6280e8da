"""Certificates for tests, in files, each signed by an authority of its own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from serve_bridge.config.tls import Tls


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


def make_tls(
    directory: Path, name: str, authority: trustme.CA, *uris: str, days: tuple[float, float] = (-1, 30)
) -> Tls:
    """Make the files of one end of the data plane; *uris* are in the certificate, which is valid for these *days*."""
    tls = Tls(*(str(directory / f"{name}.{kind}") for kind in ("crt", "key", "ca")), "tls")
    key = ec.generate_private_key(ec.SECP256R1())
    ca = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    begin, end = (datetime.now(UTC) + timedelta(days=each) for each in days)
    names: list[x509.GeneralName] = [x509.DNSName("engine"), *map(x509.UniformResourceIdentifier, uris)]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _replace(tls.cert, made.public_bytes(Encoding.PEM))
    _replace(tls.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    _replace(tls.ca, authority.cert_pem.bytes())
    return tls


def _replace(path: str, content: bytes) -> None:
    draft = Path(f"{path}.new")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.replace(path)
