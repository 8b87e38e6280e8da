"""`make demo`, as a user runs it: what it prints, how it ends, and that nothing of it is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
MARK = "SERVE_BRIDGE_DEMO_RUN"

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(300)]


class Demo:
    """One run, in directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mark = uuid.uuid4().hex
        home = directory / "home"
        home.mkdir()
        environment = {**os.environ, "TMPDIR": str(directory), "HOME": str(home), MARK: self.mark}
        for name in ("SERVE_BRIDGE_ADDRESS", "KEEP", "RAY_ADDRESS"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "examples.demo"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def read_until(self, text: str) -> None:
        """Read the output up to the line with *text*."""
        assert self.process.stdout is not None
        assert any(text in line for line in self.process.stdout)

    def output(self) -> str:
        """Return the rest of the output, when the demo has ended."""
        return self.process.communicate()[0]

    def processes(self) -> list[psutil.Process]:
        """Return what of the run still runs."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False

    def files(self) -> list[Path]:
        """Return the files of the run."""
        return [path for path in self.directory.rglob("*") if not path.is_dir()]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """A running demo; whatever a failed test leaves of it is killed."""
    directory = Path(tempfile.mkdtemp(prefix="d-"))
    demo = Demo(directory)
    yield demo
    for process in demo.processes():
        process.kill()
    demo.process.wait()
    if demo.process.stdout is not None:
        demo.process.stdout.close()
    shutil.rmtree(directory)


def test_the_demo_shows_a_new_version_arrive_and_leaves_nothing(demo: Demo) -> None:
    """Half of the traffic, then all of it, goes to the version that reads better."""
    output = demo.output()
    assert demo.process.returncode == 0, output
    assert [text in output for text in ("100% v1", "50% v2", "100% v2", "98.0%")] == [True] * 4
    assert "Traceback" not in output
    wait_until(lambda: not demo.processes())
    assert demo.files() == []


def test_the_demo_ends_cleanly_on_ctrl_c(demo: Demo) -> None:
    """A terminal sends it to the whole process group."""
    demo.read_until("Flask and Django start")
    os.killpg(demo.process.pid, signal.SIGINT)
    output = demo.output()
    assert demo.process.returncode == 130, output
    assert "Traceback" not in output
    wait_until(lambda: not demo.processes())
    assert demo.files() == []
