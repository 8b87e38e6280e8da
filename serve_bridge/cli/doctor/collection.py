"""Collects the facts about this machine. The checks get facts only, so they do no I/O."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from serve_bridge.cli.doctor.drains import StopLimit, span_s, stop_limit_of
from serve_bridge.cli.doctor.files import FileFacts
from serve_bridge.cli.doctor.forks import ForkFacts
from serve_bridge.cli.doctor.places import PlaceFacts
from serve_bridge.cli.doctor.ports import PortFacts
from serve_bridge.cli.failures import Misused
from serve_bridge.process.monkey_patches import patched_by
from serve_bridge.routing_table import RoutingTable

CONNECT_S: Final = 2.0
"""Upper limit for a try to connect, in seconds."""
CONNECTS_AT_ONCE: Final = 32
"""Upper limit for tries to connect to proxies or replicas at the same time."""
IMPORT_S: Final = 60.0
"""Upper limit for the import of a web application, in seconds."""
SYSTEMCTL_S: Final = 10.0
"""Upper limit for an answer of systemctl, in seconds."""
MOST_UNIT_BYTES: Final = 1 << 20
"""Upper limit for the size of a unit's file, in bytes."""
TOKEN_VARIABLES: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_LINGERING: Final = Path("/var/lib/systemd/linger")
_CLEANING: Final = Path("/usr/lib/tmpfiles.d/tmp.conf")
_SYSTEMD: Final = Path("/run/systemd/system")
"""A directory that exists if systemd runs. A container often has its files only."""
_AFTER_IMPORT: Final = """
import importlib, json, os, sys, threading
sys.path.insert(0, os.getcwd())
app, out = sys.argv[1], os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
failure = ""
try:
    importlib.import_module(app)
except BaseException as error:
    failure = " ".join(f"{type(error).__name__}: {error}".split())
from serve_bridge.process.monkey_patches import patched_by
ray = sys.modules.get("ray")
json.dump({
    "app": app,
    "failure": failure,
    "threads": [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()],
    "has_ray": bool(ray and ray.is_initialized()),
    "patched_by": patched_by(),
}, out)
out.close()
os._exit(0)
"""
"""A program that imports a module and prints the state of its process. It ends without the module's exit handlers."""


def file_facts(path: Path) -> FileFacts | None:
    """Return the facts about the file or directory at *path*; None if there is none, or if it cannot be seen."""
    try:
        found = path.lstat()
    except OSError:
        return None
    is_link = stat.S_ISLNK(found.st_mode)
    return FileFacts(str(path), stat.S_ISDIR(found.st_mode), stat.S_IMODE(found.st_mode), found.st_uid, is_link)


def place_facts(path: Path, holds: str, *, is_lasting: bool) -> PlaceFacts:
    """Return the facts about the directory at *path*."""
    try:
        lingers = os.path.exists(_LINGERING / pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:  # a container often has no name for its user
        lingers = False
    is_cleaned = os.path.exists(_CLEANING) and os.path.exists(_SYSTEMD)
    return PlaceFacts(str(path), holds, is_lasting, filesystem_of(path), lingers, is_cleaned)


def filesystem_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system at *path*; "" if it is not known."""
    found, longest = "", -1
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def port_facts(listener: str, host: str, port: int) -> PortFacts:
    """Try to connect to *host* and *port*."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        return PortFacts(listener, where, error.strerror or str(error))
    return PortFacts(listener, where, None)


def ports_of_urls(urls: list[str]) -> list[PortFacts]:
    """Try to connect to the proxies with these base URLs."""
    parts = [urlsplit(url) for url in urls]
    return _tried(
        ("a proxy", each.hostname or "", each.port or (443 if each.scheme == "https" else 80)) for each in parts
    )


def ports_of_replicas(routing_table: Callable[[], RoutingTable | None]) -> list[PortFacts]:
    """Try to connect to the replicas that this machine reaches over TCP only.

    A replica that no longer is in the table after the tries may have ended before its try, so it is left out.
    """
    replicas = list(_over_tcp(routing_table()))
    found = _tried(replicas)
    listening = set(_over_tcp(routing_table()))
    return [facts for each, facts in zip(replicas, found, strict=True) if each in listening]


def _tried(places: Iterable[tuple[str, str, int]]) -> list[PortFacts]:
    """Try to connect to all *places*, many at the same time: each try may take `CONNECT_S`."""
    with ThreadPoolExecutor(CONNECTS_AT_ONCE) as pool:
        return list(pool.map(lambda each: port_facts(*each), places))


def _over_tcp(table: RoutingTable | None) -> Iterator[tuple[str, str, int]]:
    """Yield the name for reports, the host and the port of each replica without a unix socket on this machine."""
    for name, backend in table.backends.items() if table is not None else ():
        for address in backend.replicas:
            if address.tcp is not None and not os.path.exists(address.unix):
                yield f"a replica of backend {name!r}", *address.tcp


def gunicorn_words(environment: Mapping[str, str]) -> list[str]:
    """Return the words of GUNICORN_CMD_ARGS."""
    try:
        return shlex.split(environment.get("GUNICORN_CMD_ARGS", ""))
    except ValueError:  # a quote is not closed, so gunicorn itself will not start
        return []


def uses_gunicorn(environment: Mapping[str, str]) -> bool:
    """Return whether this machine may run gunicorn."""
    return "GUNICORN_CMD_ARGS" in environment or find_spec("gunicorn") is not None


def fork_facts(app: str | None, environment: Mapping[str, str]) -> ForkFacts:
    """Import *app* in a process of its own and return the state of this process; None: only read the environment.

    *app* is a module, or MODULE:NAME as web servers take it.
    """
    words, worker_class = gunicorn_words(environment), ""
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name in ("-k", "--worker-class"):
            worker_class = value if equals else following
    found: dict[str, Any] = {"patched_by": patched_by()} if app is None else _after_import(app.partition(":")[0])
    found["threads"] = tuple(found.get("threads", ()))
    return ForkFacts(**found, worker_class=worker_class, preloads="--preload" in words)


def _after_import(app: str) -> dict[str, Any]:
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _AFTER_IMPORT, app],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=IMPORT_S,
            check=False,
        )
        found: dict[str, Any] = json.loads(ran.stdout)
    except subprocess.TimeoutExpired:
        return {"app": app, "failure": f"it takes longer than {IMPORT_S:g} s"}
    except ValueError:
        return {"app": app, "failure": f"it ends the process with exit code {ran.returncode}"}
    return found


def unit_limit(unit: str) -> StopLimit:
    """Return the limit of a systemd unit: of the file at *unit* if it is a path, otherwise of the unit of this name.

    Raises:
        Misused: There is no such file, its value is not a time, or systemd does not know the name.
    """
    if "/" in unit:
        try:
            return stop_limit_of(_text_of(unit), Path(unit).name)
        except OSError as error:
            raise Misused(f"--unit {unit} cannot be read: {error.strerror or error}; give the path of a file") from None
        except UnicodeError:
            raise Misused(f"--unit {unit} is not a text file; give the path of a unit's file") from None
        except ValueError as error:
            raise Misused(f"--unit {unit}: TimeoutStopSec: {error}") from None
    program = shutil.which("systemctl")
    if program is None:
        raise Misused(
            f"--unit {unit} needs systemctl, which is not installed; give the path of the unit's file, such as ./{unit}"
        )
    try:
        ran = subprocess.run(
            [program, "show", "--property", "LoadState,TimeoutStopUSec", "--", unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SYSTEMCTL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"systemctl does not answer within {SYSTEMCTL_S:g} s"
        raise Misused(f"--unit {unit}: {why}; give the path of the unit's file, such as ./{unit}") from None
    found = dict(line.split("=", 1) for line in ran.stdout.splitlines() if "=" in line)
    if ran.returncode or found.get("LoadState") != "loaded":
        why = " ".join(ran.stderr.split()) or found.get("LoadState", "no answer")
        raise Misused(
            f"--unit {unit}: systemd does not have it ({why}); give the path of the unit's file, such as ./{unit}"
        )
    try:
        return StopLimit(f"TimeoutStopSec of {unit}", span_s(found["TimeoutStopUSec"]))
    except KeyError:
        raise Misused(f"--unit {unit} has no TimeoutStopSec; give a service, such as web.service") from None
    except ValueError as error:
        raise Misused(f"--unit {unit}: TimeoutStopSec: {error}") from None


def _text_of(path: str) -> str:
    """Return the text of the file at *path*.

    Raises:
        OSError: It cannot be read, or is not a regular file, which may have no end.
        UnicodeError: It is not text.
    """
    # O_NONBLOCK, because the open of a FIFO would wait for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        return file.read(MOST_UNIT_BYTES).decode()


def has_ray_token(environment: Mapping[str, str]) -> bool:
    """Return whether a process with this environment has the token of a Ray cluster."""
    # os.path, because a Path raises if this user may not look, or has no home directory.
    found = os.path.exists(os.path.expanduser("~/.ray/auth_token"))
    return found or any(environment.get(name) for name in TOKEN_VARIABLES)
