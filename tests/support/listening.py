"""Servers of other hands, started for a test: where they may listen, and when they do."""

from __future__ import annotations

import random
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.waiting import wait_until

Address = tuple[str, int]

PORTS: Final = range(20_000, 32_000)
"""Ports that Linux gives to no socket which asks for any port, as each client does, and Ray to none of its workers."""
_CHANCE: Final = random.SystemRandom()
"""Source of ports. The one of `random` has the same seed in each worker of a run."""
_given: set[int] = set()


def has_ipv6() -> bool:
    """Return whether this machine has an IPv6 loopback."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


def free_port(host: str = "127.0.0.1", *, following: int = 0) -> int:
    """Return a port of *host* that nothing has, with as many free ones after it as *following* says.

    It stays free until the test's own server has it: this process gets no port twice, and no other socket gets it by
    chance.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        first = _CHANCE.choice(PORTS)
        wanted = range(first, first + following + 1)
        if _given.isdisjoint(wanted) and all(_is_free((host, port), family) for port in wanted):
            _given.update(wanted)
            return first


def _is_free(address: Address, family: socket.AddressFamily) -> bool:
    with suppress(OSError), socket.create_server(address, family=family):
        return True
    return False


@contextmanager
def listening(command: Sequence[str | Path], port: int, errors: Callable[[], str], log: Path) -> Iterator[Address]:
    """Run *command* until the block ends; yield where it listens, once it does. Its output goes to *log*.

    Raises:
        AssertionError: It has ended; the message is what *errors* returns.
    """
    address = ("127.0.0.1", port)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or _is_listening(address), 60.0)
        assert process.poll() is None, errors()
        yield address
    finally:
        process.terminate()
        process.wait()


def _is_listening(address: Address) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=1):
        return True
    return False
