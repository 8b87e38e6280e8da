"""The commands of docs/several-machines.md, run in their order on two hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.adapters.support.pages import blocks_of, commands_of
from tests.nodes.conftest import hosts
from tests.nodes.support.hosts import Host
from tests.support.programs import ROOT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(600)]

PAGE = ROOT / "docs" / "several-machines.md"
HOME = "/home/app"
"""The home directory and the working directory of the user on the page."""
ENVIRONMENT = {
    "HOME": HOME,
    "XDG_RUNTIME_DIR": "/run/user/1000",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}
ADDRESSES = {"engine": "10.0.0.5", "web": "10.0.0.6"}
LIMIT_S = 120.0
"""Upper limit for one step, in seconds."""


@dataclass
class Shell:
    """The shell of a reader on one host.

    Attributes:
        host: The host.
        exports: The variables that commands have exported.
        servers: The servers that commands have started.
    """

    host: Host
    exports: str = ""
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, command: str) -> str:
        """Run *command* in a shell; return what it prints."""
        return self.host.succeed(*self._words(command), environment=ENVIRONMENT)

    def serve(self, command: str) -> None:
        """Start a web server, and wait until it listens at its port."""
        self.servers.append(self.host.start(*self._words(f"exec {command}"), environment=ENVIRONMENT))
        connect = "exec 3<>/dev/tcp/127.0.0.1/8000"
        wait_until(lambda: self.host.ask("bash", "-c", connect)[0] == 0, LIMIT_S)

    def file(self, path: str) -> Path:
        """Return where this process finds the file at *path*, which may begin in the home directory."""
        return self.host.path(path if path.startswith("/") else f"{HOME}/{path}")

    def _words(self, command: str) -> tuple[str, ...]:
        return ("bash", "-c", f"cd {HOME}\n{self.exports}\n{command}")


@pytest.fixture
def shells() -> Iterator[dict[str, Shell]]:
    """A shell on each host of the page, with its files."""
    with hosts() as switch:
        shells = {}
        for name, address in ADDRESSES.items():
            host = switch.add(name)
            host.succeed("ip", "address", "flush", "dev", "eth0")
            host.succeed("ip", "address", "add", f"{address}/24", "dev", "eth0")
            host.succeed("ip", "route", "add", "default", "via", "10.0.0.1")  # Ray looks for the address of this route
            host.succeed("bash", "-c", "cp -a /etc /mnt/etc && mount --bind /mnt/etc /etc")
            host.succeed("mkdir", "-p", "-m", "700", HOME, ENVIRONMENT["XDG_RUNTIME_DIR"])
            shells[name] = Shell(host)
        files = [block.text for block in blocks_of(PAGE.with_name("web-servers.md")) if block.language == "python"]
        for name, file in (("engine", "backends.py"), ("web", "wsgi_app.py")):
            (content,) = (text for text in files if text.startswith(f"# {file}\n"))
            shells[name].file(file).write_text(content)
        yield shells
        for shell in shells.values():
            for server in shell.servers:
                server.kill()
                server.wait()
                for stream in (server.stdin, server.stdout):
                    assert stream is not None
                    stream.close()


def copy(shells: dict[str, Shell], here: Shell, source: str, target: str) -> None:
    """Do what `scp` does, since the hosts have no server for it."""

    def file(place: str) -> Path:
        name, colon, path = place.rpartition(":")
        return (shells[name] if colon else here).file(path)

    to = file(target) / Path(source).name
    to.touch(0o600)
    to.write_bytes(file(source).read_bytes())


def follow(shells: dict[str, Shell], shell: Shell, command: str, expected: str) -> None:
    """Run *command* of the page; assert that it prints what the page shows."""
    program, *words = command.split()
    if program == "export":
        shell.exports += f"{command}\n"
    elif program == "scp":
        copy(shells, shell, *words)
    elif program == "gunicorn":
        shell.serve(f"{command} --no-control-socket")
    else:
        printed = shell.run(command)
        pattern = re.escape(expected).replace(re.escape("..."), ".*?")
        assert not expected or re.fullmatch(pattern, printed.strip(), re.DOTALL), f"$ {command}\n{printed}"


def test_the_page_is_right_word_by_word(shells: dict[str, Shell]) -> None:
    """The app answers on the web host, and again after the keys were replaced."""
    last = ""
    for block in blocks_of(PAGE):
        place = re.match(r"it needs the (engine|web)", block.reason)
        if place is None:
            continue
        for command, expected in commands_of(block.text):
            follow(shells, shells[place[1]], command, expected)
            last = command if command.startswith("curl") else last
    follow(shells, shells["web"], last, '{"happy":1}')
