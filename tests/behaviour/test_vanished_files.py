"""Files that vanish under a running instance: its directory, a socket, its file and the copy of the file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.serving import Serving
from tests.support.waiting import wait_until

CALL = "import serve_bridge as serve, sys; print(serve.connect(name=sys.argv[1]).get_handle(sys.argv[2]).call())"


def files(directory: Path) -> set[str]:
    """Return what is in *directory*."""
    return set(os.listdir(directory)) if directory.is_dir() else set()


@pytest.mark.parametrize("vanished", ["directory", "everything", "sockets", "file", "copy", "lock"])
def test_what_vanishes_is_made_again(client: serve.Client, serving: Serving, http: httpx.Client, vanished: str) -> None:
    """Callers that are connected notice nothing, and a new process connects."""
    served = serving(backends.version_1)
    assert (served.handle.call(), http.get(served.route).text) == ("v1", "v1")
    status = client.status()
    directory, name = Path(client.address).parent, status["name"]
    copy = directory.with_name(f"{name}.json")
    processes = ["controller", *status["proxies"], *status["backends"][served.name]["replicas"]]
    needed = {"lock", "instance.json", *(f"{process}.sock" for process in processes)}
    gone = {
        "directory": [directory],
        "everything": [directory.parent],
        "sockets": list(directory.glob("*.sock")),
        "file": [directory / "instance.json"],
        "copy": [copy],
        "lock": [directory / "lock"],
    }[vanished]
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert (served.handle.call(), http.get(served.route).text) == ("v1", "v1")
    wait_until(lambda: files(directory) >= needed and copy.exists())
    assert copy.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    called = subprocess.run(
        [sys.executable, "-c", CALL, name, served.name], capture_output=True, text=True, timeout=60, check=False
    )
    assert called.stdout.strip() == "v1", called.stderr
    client.update_backend(served.name, backends.version_2)
    assert (served.handle.call(), http.get(served.route).text) == ("v2", "v2")


@pytest.mark.parametrize("end", ["delete", "force", "update", "scale", "die"])
def test_a_replica_that_ends_leaves_no_socket(client: serve.Client, serving: Serving, runtime: str, end: str) -> None:
    """However it ends, and at once: a backend that is made and deleted all day leaves no files."""
    if end == "die" and runtime != "ray":
        return  # a thread cannot be killed
    served = serving(backends.process, config={"num_replicas": 2})
    directory = Path(client.address).parent
    ended = client.status()["backends"][served.name]["replicas"]
    sockets = [directory / f"{replica}.sock" for replica in ended]
    assert all(path.exists() for path in sockets)
    if end in ("delete", "force"):
        client.delete_endpoint(served.name)
        client.delete_backend(served.name, force=end == "force")
    elif end == "update":
        client.update_backend(served.name, backends.version_2)
    elif end == "scale":
        client.update_backend_config(served.name, {"num_replicas": 1})
    else:
        os.kill(served.handle.call(), signal.SIGKILL)
    left = 0 if end in ("delete", "force", "update") else 1
    wait_until(lambda: sum(path.exists() for path in sockets) == left)
