"""A PostgreSQL server of a test run's own, in a temporary directory, reached over a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until

LIMIT_S = 60
USER = "postgres"  # Debian's package makes it; the server refuses to run as root


@contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    """Run a server; yield an entry of Django's DATABASES for it."""
    import psycopg

    programs = _programs()
    directory = Path(tempfile.mkdtemp(prefix="sb-pg-"))  # a socket's path is short
    options: dict[str, Any] = {"cwd": directory}
    if os.geteuid() == 0:
        shutil.chown(directory, USER)
        options |= {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []}
    data = directory / "data"
    made = [programs / "initdb", "--pgdata", data, "--username", USER, "--auth", "trust", "--no-sync"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_S, **options)
    settings = ("listen_addresses=", f"unix_socket_directories={directory}", "fsync=off", "max_connections=50")
    command = [programs / "postgres", "-D", data, *(word for setting in settings for word in ("-c", setting))]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, **options)
    where = {"HOST": str(directory), "NAME": USER, "USER": USER}

    def answers() -> bool:
        try:
            psycopg.connect(host=str(directory), dbname=USER, user=USER).close()
        except psycopg.OperationalError:
            assert server.poll() is None, (directory / "log").read_text()
            return False
        return True

    try:
        wait_until(answers)
        yield {"ENGINE": "django.db.backends.postgresql", **where}
    finally:
        server.terminate()
        server.wait(LIMIT_S)
        shutil.rmtree(directory, ignore_errors=True)


def _programs() -> Path:
    """Return the directory of the server's programs, which Debian does not put on the PATH."""
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not found and "CI" not in os.environ:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found[0]
