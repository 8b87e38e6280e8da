"""Newer Pythons: each is the minimal Debian system of a folder, made by `debootstrap` and entered with `chroot`.

Rule 1: every mount is made in a mount namespace of the command's own, so none outlives the command.
Rule 2: a folder is deleted only outside of such a namespace, and only while nothing is mounted below it.
Rule 3: the mirror, the resolver, pip's settings and the certificates are those of the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = REPOSITORY / ".pythons"
PASSED_ON: Final = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""Beginnings of the environment variables that a package client in the folder needs."""
CERTIFICATES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
"""Environment variables that name a file with certificates."""
COPIED: Final = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"),
    *("~/.config/pip/pip.conf", "~/.pip/pip.conf"),
)

_ENTER: Final = """
root=$1 repository=$2
shift 2
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root$repository"
mount --bind "$repository" "$root$repository"
exec chroot "$root" "$@"
"""


class Unavailable(Exception):
    """This machine cannot make the folder of a Python; the message says why."""


@dataclass(frozen=True)
class Python:
    """A Python of Debian.

    Attributes:
        version: Such as "3.13".
        suite: The suite of Debian that has it.
    """

    version: str
    suite: str

    @property
    def root(self) -> Path:
        """Return the folder of its system."""
        return FOLDER / self.version

    def build(self) -> None:
        """Make the folder if it is not there.

        Raises:
            Unavailable: This machine cannot.
        """
        if self.root.exists():
            return
        mirror = _mirror()
        partial = FOLDER / f"{self.version}.partial"
        remove(partial)
        FOLDER.mkdir(exist_ok=True)
        packages = f"--include=python{self.version},python{self.version}-venv"
        log = FOLDER / f"{self.version}.log"
        with log.open("w") as output:
            # In a namespace of its own: debootstrap mounts /proc and leaves it there when it fails.
            made = subprocess.run(
                ["unshare", "--mount", "debootstrap", "--variant=minbase", packages, self.suite, str(partial), mirror],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        if made.returncode:
            raise Unavailable(f"debootstrap could not make Python {self.version}; {log} says why")
        partial.rename(self.root)

    def run(
        self, command: Sequence[str], variables: Mapping[str, str], output: IO[str] | int = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* in the folder, in the repository; what it prints goes to *output*, or is returned."""
        environment = {"HOME": str(Path.home()), "PATH": "/opt/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        environment |= {**settle(self.root), **variables}
        assigned = [f"{name}={value}" for name, value in environment.items()]
        inside = ["/usr/bin/env", f"--chdir={REPOSITORY}", "--ignore-environment", *assigned, *command]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-euc", _ENTER, "enter", str(self.root), str(REPOSITORY), *inside],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )


PYTHONS: Final = (Python("3.13", "trixie"), Python("3.14", "sid"))


def settle(root: Path) -> Mapping[str, str]:
    """Copy this machine's resolver, pip settings and certificates to the system in *root*.

    Returns:
        The environment variables that a package client there needs too.
    """
    for name in (*COPIED, *filter(None, map(os.environ.get, CERTIFICATES))):
        _copy(Path(name).expanduser(), root)
    passed_on = {
        name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) or name in CERTIFICATES
    }
    return {"LANG": "C.UTF-8", **passed_on}


def remove(folder: Path) -> None:
    """Delete *folder*, which may not be there.

    Raises:
        Unavailable: Something is mounted below it.
    """
    below = f" {folder}/"
    if any(below in line for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        raise Unavailable(f"something is mounted below {folder}, so it is not deleted")
    shutil.rmtree(folder, ignore_errors=True)


def _mirror() -> str:
    """Return the mirror of Debian that this machine uses.

    Raises:
        Unavailable: There is none, or this process may not make the folder.
    """
    if os.geteuid() != 0:
        raise Unavailable("debootstrap and chroot need root")
    for program in ("debootstrap", "unshare", "apt-get"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program}; as root: apt-get install debootstrap util-linux")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise Unavailable("this machine allows no mount namespace")
    fields = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"], capture_output=True, text=True
    )
    for line in listed.stdout.splitlines():
        mirror, release, component = line.split(" ")
        keys = Path("/usr/share/debootstrap/scripts", release)
        if component == "main" and keys.exists() and mirror.startswith("http"):  # "bookworm", not "bookworm-updates"
            return mirror
    raise Unavailable("apt knows no mirror of Debian")


def _copy(file: Path, root: Path) -> None:
    if file.is_file():
        target = root / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(file, target)
