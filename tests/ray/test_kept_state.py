"""The kept state on Ray, by the command line: a killed cluster comes back with everything, without a deployment."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import serve_bridge as serve
from serve_bridge.state.state_files import StateFiles
from tests.support.listening import free_port
from tests.support.ray_head import RayHead, ray_head
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]  # a cluster starts slowly on a busy machine

Command = Callable[..., subprocess.CompletedProcess[str]]

SHOP = """
import os
import serve_bridge as serve

@serve.backend("small", endpoint="price", route="/price", num_replicas=2)
def small(request):
    return "small"

@serve.backend("large", endpoint="price")
class Large:
    def __call__(self, request):
        return "large"

serve.endpoint("price", traffic={"small": 0.5, "large": 0.5}, shadows={"large": 0.25})
"""


@pytest.fixture(scope="module")
def head(nothing_left: None) -> Iterator[RayHead]:
    """A cluster of this module, with a runtime directory of its own: a killed instance leaves its files."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="sb-") as directory:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("XDG_RUNTIME_DIR", directory)
        with ray_head(Path(directory)) as head:
            yield head


@pytest.fixture
def command(tmp_path: Path, head: RayHead) -> Command:
    """Runs `serve-bridge` in a directory with the declarations of a shop."""
    (tmp_path / "shop.py").write_text(SHOP)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = str(Path(sys.executable).with_name("serve-bridge"))
        return subprocess.run([script, *arguments], capture_output=True, text=True, timeout=90, cwd=tmp_path)

    return run


def good(ran: subprocess.CompletedProcess[str]) -> str:
    """Return what a command printed; it must have succeeded."""
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def wanted(command: Command) -> Any:
    """Return what users asked for, as `status` tells it."""
    status = json.loads(good(command("status", "--name", "kept", "--format", "json")))
    backends = {
        name: [each[key] for key in ("wanted", "owner", "deployed_at", "fingerprint", "declared")]
        for name, each in status["backends"].items()
    }
    return backends, status["endpoints"]


def status_of(url: str) -> int:
    """Return the status of a GET; 0: nothing listens."""
    try:
        return httpx.get(url, trust_env=False, timeout=10).status_code
    except httpx.TransportError:
        return 0


def test_a_killed_cluster_comes_back_without_a_deployment(head: RayHead, command: Command, tmp_path: Path) -> None:
    """Backends, code, split, shadow and owner are as before, and no route is ever a 404."""
    port = free_port()
    start = ["start", "--name", "kept", "--port", str(port), "--ray-address", head.address, "--state", str(tmp_path)]
    good(command(*start))
    good(command("deploy", "shop", "--name", "kept"))
    before = wanted(command)
    base = f"http://127.0.0.1:{port}"
    head.kill()
    head.start()
    good(command(*start))
    assert status_of(f"{base}/price") in (200, 503)
    wait_until(lambda: status_of(f"{base}/-/ready") == 200, timeout_s=60)
    assert wanted(command) == before
    assert {httpx.get(f"{base}/price", trust_env=False, timeout=30).text for _ in range(40)} == {"small", "large"}
    assert "nothing to change" in good(command("deploy", "shop", "--name", "kept"))
    # A shutdown keeps the state, and `--forget` does not.
    good(command("shutdown", "--name", "kept"))
    assert sorted(json.loads((tmp_path / "kept" / "state.json").read_text())["backends"]) == ["large", "small"]
    good(command(*start))
    good(command("shutdown", "--name", "kept", "--forget"))
    assert not (tmp_path / "kept").exists()


def test_a_killed_controller_keeps_the_state(head: RayHead, command: Command, tmp_path: Path) -> None:
    """The next controller writes the same files, and holds their lock."""
    start = ["start", "--name", "kept", "--port", "0", "--ray-address", head.address, "--state", str(tmp_path)]
    good(command(*start))
    good(command("deploy", "shop", "--name", "kept"))
    client = serve.connect(name="kept")
    holder = int((tmp_path / "kept" / "lock").read_text())
    psutil.Process(holder).kill()
    wait_until(lambda: (tmp_path / "kept" / "lock").read_text() not in ("", str(holder)), timeout_s=60)
    client.set_traffic("price", {"small": 1.0})
    document = json.loads((tmp_path / "kept" / "state.json").read_text())
    assert document["endpoints"]["price"]["traffic"] == {"small": 1.0}
    client.close()
    good(command("shutdown", "--name", "kept", "--forget"))


def test_an_instance_does_not_outlive_the_loss_of_its_controller_during_a_shutdown(
    head: RayHead, command: Command, tmp_path: Path
) -> None:
    """The next controller takes the instance over, and ends it."""
    start = ["start", "--name", "kept", "--location", "NoServer", "--ray-address", head.address]
    good(command(*start, "--state", str(tmp_path)))
    client, begun, gate = serve.connect(name="kept"), tmp_path / "begun", tmp_path / "gate"

    def slow(request: Any) -> str:
        import time
        from pathlib import Path

        Path(begun).touch()
        while not Path(gate).exists():
            time.sleep(0.01)
        return "done"

    def is_closing() -> bool:
        try:
            client.status()
        except serve.ServeBridgeError as error:
            return "shutting down" in str(error)
        return False

    client.create_backend("slow", slow, config={"graceful_shutdown_timeout_s": 60})
    client.create_endpoint("slow", backend="slow")
    with ThreadPoolExecutor(2) as pool:
        pool.submit(client.get_handle("slow").call)
        wait_until(begun.exists)
        shutdown = pool.submit(command, "shutdown", "--name", "kept")
        wait_until(is_closing, timeout_s=60)
        psutil.Process(int((tmp_path / "kept" / "lock").read_text())).kill()
        gate.touch()
        assert "has ended" in good(shutdown.result())
    client.close()
    assert "no running instance" in command("status", "--name", "kept").stderr
    good(command(*start, "--no-state"))  # the name is free
    good(command("shutdown", "--name", "kept"))


def test_bad_states_give_one_line(head: RayHead, command: Command, tmp_path: Path) -> None:
    """It names the value and the way out, and nothing runs afterwards."""
    start = ["start", "--name", "kept", "--port", "0", "--ray-address", head.address]
    (tmp_path / "file").touch()
    (tmp_path / "torn" / "kept").mkdir(parents=True, mode=0o700)
    (tmp_path / "torn" / "kept" / "state.json").write_text('{"format": 1,')
    (tmp_path / "newer" / "kept").mkdir(parents=True, mode=0o700)
    (tmp_path / "newer" / "kept" / "state.json").write_text('{"format": 2, "written_by": "9.1"}\n')
    cases = {
        ("--state", str(tmp_path / "file")): "file/kept cannot be used: Not a directory",
        ("--state", str(tmp_path / "torn")): "torn/kept/state.json cannot be used: it is incomplete",
        ("--state", str(tmp_path / "newer")): "newer/kept/state.json cannot be used: it has format 2, written by",
        ("--state", str(tmp_path), "--no-state"): "contradict each other",
    }
    used = StateFiles(tmp_path / "used" / "kept")
    used.lock()
    cases["--state", str(tmp_path / "used")] = f"used/kept is in use by a running instance, in process {os.getpid()}"
    for options, text in cases.items():
        ran = command(*start, *options)
        assert ran.returncode in (1, 2)
        assert ran.stderr.count("\n") == 1, ran.stderr
        assert text in ran.stderr
        assert "no running instance" in command("status", "--name", "kept").stderr
    used.close()
