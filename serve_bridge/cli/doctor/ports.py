"""Ports: whether this machine reaches the controller and the proxies."""

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
    """Yield a finding for each unreachable port."""
    for each in facts:
        if each.failure is not None:
            yield error(
                CHECK,
                f"{each.listener} at {each.where} cannot be reached from here: {each.failure}",
                "open the port in the firewall or NetworkPolicy between both machines, and check that the address is "
                "one of the network of both",
            )
