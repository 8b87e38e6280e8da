"""What is left of an instance that has ended without removing its files, and the command that removes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import serve_bridge as serve
from serve_bridge.cli.main import main
from serve_bridge.instance import instance_file, remains
from serve_bridge.wire.directory_lock import Claim
from tests.support.programs import ROOT

Shutdown = Callable[..., Result]
KILLED = """
import os, signal
import serve_bridge as serve
print(serve.start(runtime="local", name="ended", http_options={"location": "NoServer"}).address, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def shutdown(monkeypatch: pytest.MonkeyPatch) -> Shutdown:
    """Run `serve-bridge shutdown`, without the wait for a controller that Ray restarts."""
    monkeypatch.setattr(remains, "RESTART_S", 0.0)
    return lambda *words: CliRunner().invoke(main, ["shutdown", *words])


@pytest.fixture
def ended() -> Iterator[str]:
    """The address of an instance that was killed with its process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, env=environment)
    yield killed.stdout.strip()
    instance_file.discovery_file("ended").unlink(missing_ok=True)
    shutil.rmtree(Path(killed.stdout.strip()).parent, ignore_errors=True)


def test_shutdown_removes_the_files_of_an_instance_that_has_ended(ended: str, shutdown: Shutdown) -> None:
    """Both the file in its directory and the copy that has its name; a second time there is nothing to remove."""
    found = shutdown("--name", "ended")
    assert (found.exit_code, found.output) == (0, "instance ended had ended already; its files are removed\n")
    assert not Path(ended).parent.exists()
    assert not instance_file.discovery_file("ended").exists()
    assert shutdown("--name", "ended").exit_code == 1


def test_shutdown_says_that_the_kept_state_stays(ended: str, shutdown: Shutdown) -> None:
    """Only the controller knew where it is."""
    found = shutdown("--address", ended, "--forget")
    assert found.exit_code == 0
    assert "--fresh" in found.output


def test_the_files_stay_while_a_process_of_the_instance_may_run(ended: str, shutdown: Shutdown) -> None:
    """Such as a replica whose controller is lost. The error names the way out."""
    claim = Claim(Path(ended).parent)
    try:
        found = shutdown("--address", ended)
    finally:
        claim.release()
    assert found.exit_code == 1
    assert "`ray stop`" in found.output
    assert Path(ended).exists()


def test_the_files_of_a_running_instance_stay(shutdown: Shutdown) -> None:
    """Even if the first try to reach it had failed."""
    client = serve.start(runtime="local", name="running", http_options={"location": "NoServer"})
    with pytest.raises(serve.NotConnected):
        remains.remove_remains(client.address, "running")
    assert Path(client.address).exists()
    client.shutdown()
