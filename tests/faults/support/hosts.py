"""Hosts that can vanish: a network namespace each, and a cable to it that can be cut. They need root and iproute2."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import ROOT

_numbers = itertools.count()


class Host:
    """A network namespace that this one reaches over a cable.

    Attributes:
        address: Its address.
    """

    def __init__(self, name: str, number: int) -> None:
        network, first = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}", number % 64 * 4
        self.address = f"{network}.{first + 2}"
        self._name = name
        _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        _ip("address", "add", f"{network}.{first + 1}/30", "dev", f"{name}a")
        _ip("-n", name, "address", "add", f"{self.address}/30", "dev", f"{name}b")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "set", f"{name}a", "up")
        _ip("-n", name, "link", "set", f"{name}b", "up")
        # Otherwise a packet waits for up to 3 s until the kernel knows the card again, and outlives a short cut there.
        here = Path(f"/sys/class/net/{name}a/address").read_text().strip()
        there = "02:00:00:00:00:02"
        _ip("-n", name, "link", "set", f"{name}b", "address", there)
        _ip("neighbour", "replace", self.address, "lladdr", there, "dev", f"{name}a", "nud", "permanent")
        _ip("-n", name, *("neighbour", "replace", f"{network}.{first + 1}", "lladdr", here, "dev", f"{name}b"))

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start *program* there in a fresh interpreter; its standard output is a pipe."""
        command = ["ip", "netns", "exec", self._name, sys.executable, "-c", textwrap.dedent(program), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def vanish(self) -> None:
        """Cut the cable: nothing that is sent there arrives, and nothing says so."""
        _ip("-n", self._name, "link", "set", f"{self._name}b", "down")

    def come_back(self) -> None:
        """Repair the cable."""
        _ip("-n", self._name, "link", "set", f"{self._name}b", "up")


@contextlib.contextmanager
def other_host() -> Iterator[Host]:
    """Make a host; skip the test where that is not possible."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a host of its own is a network namespace, which needs root and iproute2")
    number = next(_numbers)
    name = f"sb{os.getpid()}-{number}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network namespace: {error.stderr.strip()}")
    try:
        yield Host(name, number)
    finally:
        # The kernel takes the namespace away some time after its last socket, and the cable with it.
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "delete", f"{name}a")
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
