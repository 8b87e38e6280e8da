"""Servers of other hands, started for a test: where they may listen, and when they do."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.support.waiting import wait_until

Address = tuple[str, int]


def has_ipv6() -> bool:
    """Return whether this machine has an IPv6 loopback."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of *host* that nothing listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.create_server((host, 0), family=family)) as free:
        port: int = free.getsockname()[1]
        return port


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
        wait_until(lambda: process.poll() is not None or _is_listening(address))
        assert process.poll() is None, errors()
        yield address
    finally:
        process.terminate()
        process.wait()


def _is_listening(address: Address) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=1):
        return True
    return False
