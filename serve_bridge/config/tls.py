"""The files for TLS of one process."""

from __future__ import annotations

from typing import NamedTuple


class Tls(NamedTuple):
    """The files for TLS on the data plane of one instance, in one process.

    Attributes:
        cert, key: Paths of the certificate of this process, and of its key.
        ca: Path of the certificate of the authority that has signed the certificates of all peers.
        instance: Name of the instance.
        prefix: Begin of the options' names, for error texts: "tls_" or "SERVE_BRIDGE_TLS_".
    """

    cert: str
    key: str
    ca: str
    instance: str
    prefix: str = "tls_"

    def named(self, file: str) -> str:
        """Return the name of the option for *file*: "cert", "key" or "ca"."""
        return self.prefix + (file.upper() if self.prefix.isupper() else file)
