"""The options of an instance's own network: where its processes listen for each other, and where its keys are."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple, Self, TypedDict

from serve_bridge.config.checks import check_no_key, file_path, optional
from serve_bridge.config.options import check_options, option
from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]\x00-\x1f\x7f]{1,253}):([0-9]{1,5})")
_PORTS: Final = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_ZEROS: Final = re.compile(r"(0+|0[xX]0+)(\.(0+|0[xX]0+)){0,3}")
HIGHEST_PORT: Final = 65_535


def host_port(name: str, value: Any) -> str:
    """Accept HOST:PORT; an IPv6 address stands in brackets."""
    found = _HOST_PORT.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[2]) > HIGHEST_PORT or not _is_host(found[1]):
        raise ConfigError(f"{name} must be HOST:PORT, such as 10.0.0.5:7000 or [fd00::5]:7000, got {shown(value)}")
    return str(value)


def _is_host(host: str) -> bool:
    """Return whether *host* can be looked up: a label of a name has 1 to 63 characters."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def port_range(name: str, value: Any) -> str:
    """Accept FIRST-LAST, two ports."""
    found = _PORTS.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[1]) <= int(found[2]) <= HIGHEST_PORT:
        raise ConfigError(f"{name} must be a range of ports, such as 7001-7050, got {shown(value)}")
    return str(value)


def key_file_path(name: str, value: Any) -> str:
    """Accept the path of a file, but not a key itself."""
    check_no_key(name, value, "the path of a file")
    return file_path(name, value)


def split(address: str) -> tuple[str, int]:
    """Return the host and the port of *address*, which `host_port` has accepted."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """Return HOST:PORT."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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


class NetworkOptionsDict(TypedDict, total=False):
    """The options of `NetworkOptions` as keyword arguments, for type checkers. A test compares the two."""

    listen: str | None
    advertise: str | None
    data_ports: str | None
    key_file: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_ca: str | None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Where the processes of an instance listen for each other and for web workers on other hosts.

    Attributes:
        listen: HOST:PORT at which the controller listens. None: a free port, only where other nodes need it.
        advertise: HOST:PORT under which other hosts reach the controller. Replicas on its node are reached under the
            same HOST. None: as `listen`.
        data_ports: Range of ports for replicas and proxies, on each node. None: free ports.
        key_file: File with the instance's secret. The key files of the roles are beside it. None: in the state
            directory of the instance.
        tls_cert: File with the certificate of each process of the engine, in PEM form. With it, all TCP connections of
            the instance use TLS 1.3, and both ends need a certificate. None: the connections are not encrypted.
        tls_key: File with the key of this certificate.
        tls_ca: File with the certificate of the authority that signs the certificates of both ends.

    Raises:
        ConfigError: An option has a wrong form, or contradicts another one. The message names it.
    """

    listen: str | None = option(None, optional(host_port))
    advertise: str | None = option(None, optional(host_port))
    data_ports: str | None = option(None, optional(port_range))
    key_file: str | None = option(None, optional(key_file_path))
    tls_cert: str | None = option(None, optional(file_path))
    tls_key: str | None = option(None, optional(file_path))
    tls_ca: str | None = option(None, optional(file_path))

    def __post_init__(self) -> None:
        check_options(self)
        if self.listen is None:
            for name in ("advertise", "data_ports"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} needs listen, such as listen='10.0.0.5:7000'")
        elif self.advertise is not None and _is_any(split(self.advertise)[0]):
            raise ConfigError(
                f"advertise={self.advertise!r} is every address of a host, and no address of this one; other hosts "
                f"need a host that leads here: advertise='HOST:{split(self.advertise)[1]}'"
            )
        elif self.advertise is None and _is_any(split(self.listen)[0]):
            raise ConfigError(
                f"listen={self.listen!r} is every address of the host, so other hosts need one of them: "
                f"advertise='HOST:{split(self.listen)[1]}'"
            )
        self._check_tls()
        if self.listen is not None and self.data_ports is not None and split(self.listen)[1] in self.ports:
            raise ConfigError(f"listen={self.listen!r} is inside data_ports={self.data_ports!r}; use another port")

    def _check_tls(self) -> None:
        tls = {name: getattr(self, name) for name in ("tls_cert", "tls_key", "tls_ca")}
        lacking = [name for name, value in tls.items() if value is None]
        if len(lacking) == len(tls):
            return
        if lacking:
            raise ConfigError(f"TLS needs tls_cert, tls_key and tls_ca; give {' and '.join(lacking)} too")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the options of the network among *options*, those of `start`."""
        return cls(**{each.name: options[each.name] for each in fields(cls) if each.name in options})

    @property
    def ports(self) -> Sequence[int]:
        """The ports for replicas and proxies; 0 is any free one."""
        found = _PORTS.fullmatch(self.data_ports or "")
        return (0,) if found is None else range(int(found[1]), int(found[2]) + 1)

    @property
    def listen_host(self) -> str | None:
        """The host of `listen`."""
        return None if self.listen is None else split(self.listen)[0]

    def tls(self, instance: str) -> Tls | None:
        """Return the files for TLS of *instance*; None: its connections are not encrypted."""
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return Tls(self.tls_cert, self.tls_key, self.tls_ca, instance)

    def advertised(self, host: str) -> str:
        """Return the host under which other hosts reach a process that listens on *host*."""
        return host if self.advertise is None or host != self.listen_host else split(self.advertise)[0]

    @property
    def advertised_port(self) -> int | None:
        """The port under which other hosts reach the controller; None: the one on which it listens."""
        return None if self.advertise is None else split(self.advertise)[1] or None


NO_NETWORK: Final = NetworkOptions()
"""The options of an instance that serves no other hosts."""


def _is_any(host: str) -> bool:
    """Return whether *host* stands for every address of a host. The C library takes "*" and "0" for one too."""
    try:
        return host == "*" or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return _ZEROS.fullmatch(host) is not None


def network_differences(old: NetworkOptions, new: NetworkOptions) -> list[str]:
    """Return where *new* differs from *old*, such as "listen is '10.0.0.5:7000', not '10.0.0.5:7001'"."""
    pairs = ((each.name, getattr(old, each.name), getattr(new, each.name)) for each in fields(NetworkOptions))
    return [f"{name} is {shown(was)}, not {shown(wanted)}" for name, was, wanted in pairs if was != wanted]
