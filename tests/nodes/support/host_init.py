"""The first process of a host that `hosts.Host` has made: gives the host files of its own and reaps what is left over.

It runs in mount, pid, network and name namespaces that are this host's alone, and ends with its standard input. All
mounts and processes of the host end with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

STAGE = Path("/mnt")


def mount(*words: str) -> None:
    """Run `mount` with *words*."""
    subprocess.run(["mount", *words], check=True)


def hide(directory: Path, kept: list[Path]) -> None:
    """Mount an empty file system over *directory*; what is *kept* below it stays in its place."""
    inside = [path for path in kept if path.is_relative_to(directory)]
    for number, path in enumerate(inside):
        place = STAGE / str(number)
        place.mkdir(exist_ok=True)
        mount("--bind", str(path), str(place))
    mount("-t", "tmpfs", "tmpfs", str(directory))
    for number, path in enumerate(inside):
        path.mkdir(parents=True, exist_ok=True)
        mount("--move", str(STAGE / str(number)), str(path))


def main() -> None:
    """Set up the host called argv[1], keep the directories argv[2:], say so, and wait."""
    name, *kept = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    socket.sethostname(name)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    mount("-t", "tmpfs", "tmpfs", str(STAGE))
    # Of directories that lie in one another the outer one is hidden first.
    private = sorted({Path(path).resolve() for path in ("/tmp", "/var/tmp", "/run", "/dev/shm", "/home", Path.home())})
    for directory in private:
        directory.mkdir(parents=True, exist_ok=True)
        hide(directory, [Path(path).resolve() for path in kept])
    os.chmod("/tmp", 0o1777)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps what is left to this process
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
