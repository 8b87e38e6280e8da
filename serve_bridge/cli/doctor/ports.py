"""Ports: whether this machine reaches the controller, the proxies and the replicas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, error

CHECK: Final = "ports"


@dataclass(frozen=True)
class PortFacts:
    """A try to connect.

    Attributes:
        listener: The expected process, such as "the controller".
        where: Host and port.
        failure: Why it failed; None: it did not.
    """

    listener: str
    where: str
    failure: str | None


def check_ports(facts: Iterable[PortFacts]) -> Iterator[Finding]:
    """Yield a finding for the unreachable ports of each listener that fail for the same reason."""
    unreachable: dict[tuple[str, str], list[str]] = {}
    for each in facts:
        if each.failure is not None:
            unreachable.setdefault((each.listener, each.failure), []).append(each.where)
    for (listener, failure), places in unreachable.items():
        yield error(
            CHECK,
            f"{listener} at {', '.join(places)} cannot be reached from here: {failure}",
            "open the port in the firewall or NetworkPolicy between both machines, for replicas all of data_ports, and "
            "check that the address is one of the network of both",
        )
