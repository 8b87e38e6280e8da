"""Servers of other hands, started for a test: where they may listen, and when they do."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.support.waiting import wait_until

Address = tuple[str, int]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
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
