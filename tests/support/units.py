"""Units of systemd, run by hand: their commands, with the environment, the signals and the time limit of the unit."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping

import psutil

from tests.support.programs import kill_all


class Unit:
    """One unit of `Type=notify` that is loaded.

    Attributes:
        process: Its main process, once it has been started.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, text: str, instead: Mapping[str, str]) -> None:
        """Read the unit in *text*, in which the keys of *instead* stand for their values."""
        for old, new in instead.items():
            assert old in text, f"the unit has no {old}"
            text = text.replace(old, new)
        lines = [line.partition("=")[::2] for line in text.splitlines() if "=" in line and not line.startswith("#")]
        self._options = dict(lines)
        self._variables = [word for name, value in lines if name == "Environment" for word in shlex.split(value)]

    def start(self, environment: Mapping[str, str]) -> None:
        """Run ExecStart until it says that it is ready."""
        assert self._options["Type"] == "notify"
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(f"{directory}/notify")
            told.settimeout(60)
            variables = dict(variable.split("=", 1) for variable in self._variables)
            self.process = subprocess.Popen(
                shlex.split(self._options["ExecStart"]),
                cwd=self._options["WorkingDirectory"],
                env={**os.environ, **environment, **variables, "NOTIFY_SOCKET": f"{directory}/notify"},
            )
            while b"READY=1" not in told.recv(4096):
                pass

    def reload(self) -> None:
        """Run ExecReload."""
        command = self._options["ExecReload"].replace("$MAINPID", str(self.process.pid))
        subprocess.run(shlex.split(command), check=True)

    def stop(self) -> int:
        """Send SIGTERM to the main process, as KillMode=mixed says; return the exit status.

        Raises:
            TimeoutExpired: The process does not end within TimeoutStopSec, so systemd would kill it.
        """
        assert self._options["KillMode"] == "mixed"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(float(self._options["TimeoutStopSec"]))

    def workers(self) -> set[int]:
        """Return the processes that the main process has started."""
        return {each.pid for each in psutil.Process(self.process.pid).children()}

    def kill(self) -> None:
        """End what is left."""
        kill_all(self.process)
