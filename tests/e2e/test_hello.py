"""The files of `examples/hello`, started as a user starts them: copied out, `python app.py`, a request, Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.listening import free_port
from tests.support.programs import ROOT, kill_all
from tests.support.waiting import wait_until

HELLO = ROOT / "examples" / "hello"
EXAMPLES = sorted(file.parent.name for file in HELLO.glob("*/app.py"))
END_S = 20.0

pytestmark = pytest.mark.e2e


@pytest.fixture
def own_directory() -> Iterator[str]:
    """A runtime directory for one program; its path is short, because Unix sockets limit the length."""
    with tempfile.TemporaryDirectory(prefix="h-") as directory:
        yield directory


def test_each_framework_has_an_example() -> None:
    """The README of the folder lists all of them, each with its install line."""
    listed = [line.split("`")[1] for line in (HELLO / "README.md").read_text().splitlines() if "pip install" in line]
    assert sorted(listed) == EXAMPLES == ["django", "fastapi", "flask", "standalone", "starlette"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_copied_file_answers_and_ends_with_ctrl_c(example: str, own_directory: str, tmp_path: Path) -> None:
    """The file needs no other file, listens at PORT, and prints no traceback at its end."""
    shutil.copy(HELLO / example / "app.py", tmp_path)
    port = free_port()
    variables = {"PORT": str(port), "XDG_RUNTIME_DIR": own_directory, "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **variables}
    environment.pop("SERVE_BRIDGE_ADDRESS", None)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=default_interrupt,
        )
    try:
        answer = wait_until(lambda: asked(f"http://127.0.0.1:{port}/hello/ada", process, log), timeout_s=60)
        assert answer.json() == {"message": "Hello, ada!"}
        process.send_signal(signal.SIGINT)
        process.wait(END_S)
    finally:
        kill_all(process)
    assert "Traceback" not in log.read_text()


def default_interrupt() -> None:
    """Undo the ignored SIGINT that a background job of a shell inherits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def asked(url: str, process: subprocess.Popen[bytes], log: Path) -> httpx.Response | None:
    """Return the answer; None while the program does not listen or has not deployed its backend yet.

    Raises:
        AssertionError: The program has ended.
    """
    assert process.poll() is None, log.read_text()
    with suppress(httpx.TransportError):
        answer = httpx.get(url, timeout=30, trust_env=False)
        return None if answer.status_code == 404 else answer
    return None
