"""An instance of the local runtime in a process of its own, whichever version of the package that has.

As a module it starts the instance, prints where it is as JSON, and ends it once its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import serve_bridge as serve
from tests.faults.support.backends import Recorder
from tests.support.programs import ROOT


@dataclass(frozen=True)
class Engine:
    """A running instance, of which another process knows only where it is.

    Attributes:
        address: Its address.
        http_urls: The URLs of its proxies.
        version: Its version of the package.
    """

    address: str
    http_urls: list[str]
    version: str


@contextmanager
def running(name: str, journal: Path, environment: Mapping[str, str]) -> Iterator[Engine]:
    """Run an instance with the endpoint "transfer", whose backend writes to *journal*."""
    command = [sys.executable, "-m", "tests.upgrade.support.engine", name, str(journal)]
    with subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Engine(**json.loads(process.stdout.readline()))
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def main(name: str, journal: str) -> None:
    """Run as a process of its own."""
    client = serve.start(name=name, runtime="local", http_options={"port": 0})
    client.create_backend("transfer", Recorder, journal, config={"num_replicas": 2})
    client.create_endpoint("transfer", backend="transfer", route="/transfer", methods=["GET", "POST"])
    engine = {"address": client.address, "http_urls": client.http_urls, "version": serve.__version__}
    sys.stdout.write(json.dumps(engine) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    with contextlib.suppress(serve.ProtocolError):  # a command may be shutting it down
        client.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
