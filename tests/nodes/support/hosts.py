"""Hosts on this machine: namespaces with a network, files and processes of their own, joined by a bridge.

Rule 1: a host is held by one process of the test. When that ends, however it ends, the kernel ends all that is the
    host's: its processes, its mounts and its network. Nothing is ever removed through a mount.
Rule 2: every address is one of a network that the test has made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from tests.support.programs import ROOT
from tests.support.waiting import wait_until

LIMIT_S = 120
_NETWORK = "10.77.0"
_RAY = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"
_KEPT = tuple(dict.fromkeys(str(Path(path).resolve()) for path in (ROOT, sys.prefix, sys.base_prefix)))


def why_not() -> str:
    """Return why this process can make no hosts; empty if it can."""
    if sys.platform != "linux":
        return "hosts need Linux"
    if os.geteuid() != 0:
        return "hosts need root"
    missing = [program for program in ("ip", "bridge", "unshare", "nsenter", "mount") if shutil.which(program) is None]
    if missing:
        return f"hosts need {', '.join(missing)}: apt-get install iproute2 util-linux"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"this machine lends no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class Switch:
    """A bridge in a network namespace of its own, and the hosts at it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--kill-child", "--fork", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self._pid = _child(self._holder)
        self._count = 0
        self.hosts: list[Host] = []
        self._ip("link", "add", "switch", "type", "bridge")
        self._ip("link", "set", "switch", "up")

    def add(self, name: str, *, instead_of: Host | None = None, disk: str | None = None) -> Host:
        """Return a new host called *name*, which reaches all others.

        *instead_of* has vanished. The new host is this one after a reboot: it has the same address. It has the
        directory *disk* of this machine too, at the same path, which outlives the host.
        """
        self._count += 1
        address = f"{_NETWORK}.{self._count}" if instead_of is None else instead_of.address
        host = Host(name, address, self, f"port{self._count}", disk)
        self.hosts.append(host)
        self._ip("link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        self._ip("link", "set", host.port, "master", "switch", "up")
        # The others remember which address has which card.
        host.succeed("ip", "link", "set", "eth0", "address", _card(address))
        host.succeed("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.succeed("ip", "link", "set", "eth0", "up")
        return host

    def _ip(self, *words: str) -> None:
        subprocess.run(["nsenter", "--target", str(self._pid), "--net", "ip", *words], check=True)

    def cut(self, host: Host, *, is_cut: bool = True) -> None:
        """Drop all that comes from or goes to *host*, without a word to either end; or let it pass again."""
        words = ["bridge", "link", "set", "dev", host.port, "state", "0" if is_cut else "3"]
        subprocess.run(["nsenter", "--target", str(self._pid), "--net", *words], check=True)

    @contextlib.contextmanager
    def cut_between(self, one: Host, other: Host) -> Iterator[None]:
        """Drop all that these two hosts send to each other, for the time of the block. Others reach both of them."""
        ends = ((one, other), (other, one))
        for host, peer in ends:
            host.send_to_card(peer.address, "02:00:00:00:ff:ff")  # no host has it
        try:
            yield
        finally:
            for host, peer in ends:
                host.send_to_card(peer.address, _card(peer.address))

    def slow(self, host: Host, *, is_slow: bool = True) -> None:
        """Let 64 KiB a second go to *host*; or let it be fast again."""
        rate = ["root", "tbf", "rate", "512kbit", "burst", "4kb", "latency", "2s"] if is_slow else ["root"]
        words = ["tc", "qdisc", "add" if is_slow else "del", "dev", host.port, *rate]
        subprocess.run(["nsenter", "--target", str(self._pid), "--net", *words], check=True)

    def close(self) -> None:
        """End all hosts."""
        for host in self.hosts:
            host.vanish()
        _end(self._holder)


class Host:
    """One host.

    Attributes:
        name: Its host name.
        address: Its address.
        pid: Its first process, as this process sees it.
        port: Its port of the bridge.
    """

    def __init__(self, name: str, address: str, switch: Switch, port: str, disk: str | None) -> None:
        self.name = name
        self.address = address
        self.port = port
        self._switch = switch
        self._holder = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"),
                *(
                    sys.executable,
                    str(Path(__file__).with_name("host_init.py")),
                    name,
                    *_KEPT,
                    *([disk] if disk else []),
                ),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", f"host {name} could not be made"
        self.pid = _child(self._holder)

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start *command* here; its standard output is a pipe."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        own = {
            "HOME": str(Path.home()),
            "PYTHONPATH": str(ROOT),
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return subprocess.Popen(
            ["nsenter", "--target", str(self.pid), *("--net", "--mount", "--pid", "--uts", "--ipc"), *command],
            cwd="/",
            env={**kept, **own, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_python(
        self, program: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start the lines of *program* here; its standard input and output are pipes."""
        return self.start(sys.executable, "-c", textwrap.dedent(program), *arguments, environment=environment)

    def ask(self, *command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run *command* here; return its exit status and what it prints."""
        with self.start(*command, environment=environment) as process:
            try:
                printed, _ = process.communicate(timeout=LIMIT_S)
            except BaseException:
                process.kill()
                raise
        return process.returncode, printed

    def succeed(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run *command* here; return what it prints.

        Raises:
            AssertionError: It failed.
        """
        status, printed = self.ask(*command, environment=environment)
        assert status == 0, f"on {self.name}: {command} ended with {status}: {printed}"
        return printed

    def python(self, program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run the lines of *program* here; return what they print."""
        return self.succeed(sys.executable, "-c", textwrap.dedent(program), *arguments, environment=environment)

    def command(self, *words: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run `serve-bridge` with *words* here; return its exit status and what it prints."""
        return self.ask(*self.program(*words), environment=environment)

    @staticmethod
    def program(*words: str) -> tuple[str, ...]:
        """Return the command of `serve-bridge` with *words*."""
        return (sys.executable, "-m", "serve_bridge", *words)

    def start_ray(self, *words: str, environment: Mapping[str, str] | None = None) -> None:
        """Make this host a Ray node, with the options *words* of `ray start`."""
        self.succeed(
            *(sys.executable, "-c", _RAY, "start", f"--node-ip-address={self.address}", "--num-cpus=4"),
            *("--object-store-memory=80000000", "--disable-usage-stats", *words),
            environment=environment,
        )

    def stop_ray(self) -> None:
        """Run `ray stop`, which ends all of Ray's processes that are in the namespace of this host."""
        self.succeed(sys.executable, "-c", _RAY, "stop", "--force")

    def processes(self, word: str) -> list[psutil.Process]:
        """Return the processes of this host whose command line has *word*."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def send_to_card(self, address: str, card: str) -> None:
        """Let packets for *address* go to this network card from now on."""
        self.succeed("ip", "neighbour", "replace", address, "lladdr", card, "dev", "eth0", "nud", "permanent")

    def keep_file(self, path: str, at: str) -> None:
        """Let *path* lead to the file *at*, which outlives this host."""
        self.succeed("ln", "--symbolic", "--force", at, path)

    def path(self, path: str) -> Path:
        """Return where this process finds what is at *path* here."""
        return Path(f"/proc/{self.pid}/root{path}")

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Drop all that comes from or goes to this host, for the time of the block."""
        self._switch.cut(self)
        try:
            yield
        finally:
            self._switch.cut(self, is_cut=False)

    @contextlib.contextmanager
    def slowed(self) -> Iterator[None]:
        """Let 64 KiB a second go to this host, for the time of the block."""
        self._switch.slow(self)
        try:
            yield
        finally:
            self._switch.slow(self, is_slow=False)

    def vanish(self) -> None:
        """End this host and all that runs here; its peers hear nothing of it."""
        if self._holder.poll() is None:
            self._switch.cut(self)
        _end(self._holder)


def _card(address: str) -> str:
    """Return the network card of the host at *address*."""
    return f"02:00:00:00:00:{int(address.rpartition('.')[2]):02x}"


def _child(process: subprocess.Popen[bytes]) -> int:
    """Return the one child of *process*."""
    (child,) = wait_until(lambda: psutil.Process(process.pid).children())
    return int(child.pid)


def _end(holder: subprocess.Popen[bytes]) -> None:
    holder.kill()  # `unshare --kill-child` lets its child end with it, and with that all of the namespace
    holder.wait()
    for stream in (holder.stdin, holder.stdout):
        if stream is not None:
            stream.close()
