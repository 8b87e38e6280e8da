"""A container on a host: the steps of a Dockerfile run in a copy of a Debian system, and its command as process 1.

Rule 1: the mounts are the host's and end with it. The Debian system itself stays as it was.
Rule 2: RUN has the network of this machine, since it installs packages. All else has the network of the host.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from matrix.pythons import Python, settle
from tests.nodes.support.hosts import Host

PLACE: Final = "/mnt/image"
INSIDE: Final = f"{PLACE}/root"
NAMESPACES: Final = ("--mount", "--pid", "--uts", "--ipc")


@dataclass
class Image:
    """A system on *host* that has what the images `python:3.13-slim` have: Debian, and Python below /usr/local.

    Attributes:
        host: Where it is.
        files: The directory from which COPY takes files.
        build_variables: The environment variables of RUN that are not in the file.
        variables: Those of ENV.
        directory, user: Those of the last WORKDIR and USER.
        command, check: The words of CMD and HEALTHCHECK.
        port: That of EXPOSE.
    """

    host: Host
    files: Path
    build_variables: Mapping[str, str]
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    directory: str = "/"
    user: str = "0"
    command: Sequence[str] = ()
    check: Sequence[str] = ()
    port: int = 0

    def path(self, path: str) -> Path:
        """Return where this process finds what is at *path* inside."""
        return self.host.path(f"{INSIDE}{path}")

    def begin(self, python: Python) -> None:
        """Make the system, with *python*."""
        self.build_variables = {**settle(python.root), **self.build_variables}
        succeed = self.host.succeed
        layers = {"lowerdir": python.root, "upperdir": f"{PLACE}/upper", "workdir": f"{PLACE}/work"}
        succeed("mkdir", "-p", layers["upperdir"], layers["workdir"], INSIDE)
        options = ",".join(f"{name}={path}" for name, path in layers.items())
        succeed("mount", "-t", "overlay", "overlay", "-o", options, INSIDE)
        succeed("mount", "--rbind", "/dev", f"{INSIDE}/dev")
        succeed("mount", "--bind", "/proc", f"{INSIDE}/proc")
        succeed("chroot", INSIDE, f"/usr/bin/python{python.version}", "-m", "venv", "/usr/local")

    def build(self, dockerfile: str) -> None:
        """Run the steps of *dockerfile*, one a line."""
        for line in dockerfile.splitlines():
            if line and not line.startswith("#"):
                self._step(*line.split(" ", 1))

    def _step(self, instruction: str, text: str) -> None:
        match instruction:
            case "FROM":
                assert text == "python:3.13-slim"
            case "RUN":
                self._install(text)
            case "COPY":
                *names, target = text.split()
                self.path(target).mkdir(parents=True, exist_ok=True)
                for name in names:
                    self.path(f"{target}{name}").write_bytes((self.files / name).read_bytes())
            case "WORKDIR":
                self.directory = text
                self.path(text).mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = text
            case "ENV":
                self.variables |= dict(word.split("=", 1) for word in shlex.split(text))
            case "EXPOSE":
                self.port = int(text)
            case "HEALTHCHECK":
                self.check = json.loads(text.partition("CMD ")[2])
            case "CMD":
                self.command = json.loads(text)
            case _:
                raise AssertionError(f"no step {instruction}")

    def _install(self, line: str) -> None:
        enter = ["nsenter", "--target", str(self.host.pid), *NAMESPACES]
        ran = subprocess.run(
            [*enter, *self._inside(["/bin/sh", "-c", line], self.build_variables)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"RUN {line}: {ran.stdout}{ran.stderr}"

    def _inside(self, words: Sequence[str], variables: Mapping[str, str]) -> list[str]:
        user = [f"--userspec={self.user}:{self.user}", f"--groups={self.user}"]
        assigned = [f"{name}={value}" for name, value in {**self.variables, **variables}.items()]
        environment = ["/usr/bin/env", "--ignore-environment", f"--chdir={self.directory}", *assigned]
        return ["chroot", *user, INSIDE, *environment, *words]

    def run(self, variables: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start CMD with *variables*, as process 1 of the container's own."""
        own = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={INSIDE}/proc"]
        return self.host.start(*own, *self._inside(self.command, variables))

    def is_healthy(self) -> bool:
        """Return whether HEALTHCHECK succeeds."""
        return self.host.ask(*self._inside(self.check, {}))[0] == 0
