"""The options of an instance's own network: where its processes listen for each other, and where its keys are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self, TypedDict

from serve_bridge.config.addresses import HIGHEST_PORT, host_port, is_any, split
from serve_bridge.config.checks import file_path, key_file_path, optional
from serve_bridge.config.options import check_options, option
from serve_bridge.config.tls import Tls
from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

_PORTS: Final = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")


def port_range(name: str, value: Any) -> str:
    """Accept FIRST-LAST, two ports."""
    found = _PORTS.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[1]) <= int(found[2]) <= HIGHEST_PORT:
        raise ConfigError(f"{name} must be a range of ports, such as 7001-7050, got {shown(value)}")
    return str(value)


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
        elif self.advertise is not None and is_any(split(self.advertise)[0]):
            raise ConfigError(
                f"advertise={self.advertise!r} is every address of a host, and no address of this one; other hosts "
                f"need a host that leads here: advertise='HOST:{split(self.advertise)[1]}'"
            )
        elif self.advertise is None and is_any(split(self.listen)[0]):
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


def network_differences(old: NetworkOptions, new: NetworkOptions) -> list[str]:
    """Return where *new* differs from *old*, such as "listen is '10.0.0.5:7000', not '10.0.0.5:7001'"."""
    pairs = ((each.name, getattr(old, each.name), getattr(new, each.name)) for each in fields(NetworkOptions))
    return [f"{name} is {shown(was)}, not {shown(wanted)}" for name, was, wanted in pairs if was != wanted]
