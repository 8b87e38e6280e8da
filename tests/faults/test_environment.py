"""Faults of the machine: a clock that jumps, a memory limit, and a full disk under the state directory."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import serve_bridge as serve
from tests.faults.conftest import Stage
from tests.faults.report.figures import note
from tests.faults.support.counts import at_scale
from tests.support.programs import ROOT

pytestmark = pytest.mark.faults

LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
JUMPING = """
    import sys, time
    from pathlib import Path
    import serve_bridge as serve

    async def answer(request):
        return 1

    offset, jumps = Path(sys.argv[1]), int(sys.argv[2])
    client = serve.start(runtime="local", name="jumping", http_options={"port": 0})
    client.create_backend("m", answer, config={"num_replicas": 2, "health_check_period_s": 0.1})
    client.create_endpoint("m", backend="m")
    handle = client.get_handle("m").options(timeout_s=10)
    before = client.status()["backends"]["m"]["replicas"]
    answered = 0
    for number in range(jumps):
        jump_s = 3600 if number % 2 == 0 else -3600
        old = time.time()
        offset.write_text(f"{jump_s:+d}s")
        while abs(time.time() - old) < 1800:
            answered += handle.call()
        for _ in range(200):
            answered += handle.call()
        client.set_traffic("m", {"m": 1.0})
    assert client.status()["backends"]["m"]["replicas"] == before, "a replica was replaced"
    client.shutdown()
    print(answered)
"""


def test_a_clock_that_jumps_costs_nothing(tmp_path: Path) -> None:
    """G11: an hour forward and back, under calls, probes and changes; no replica is replaced."""
    if not LIBRARIES:
        pytest.skip("a clock that jumps needs the Debian package faketime")
    offset, jumps = tmp_path / "offset", at_scale(2, 20)
    offset.write_text("+0s")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-c", textwrap.dedent(JUMPING), str(offset), str(jumps)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    answered = int(ended.stdout)
    assert answered >= 200 * jumps
    note(jumps, f"{jumps} jumps of an hour, {answered} calls, 0 failed")


class Hungry:
    """Takes as many bytes as it is asked for, below a limit of its process."""

    def __init__(self, room: int) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))

    async def __call__(self, request: object) -> int:
        """Return the number of the process."""
        size = int(request.query_params["size"])  # type: ignore[attr-defined]
        assert len(bytearray(size)) == size
        return os.getpid()


@pytest.mark.ray
def test_a_replica_at_its_memory_limit_serves_on(stage: Stage) -> None:
    """E07: a request for which there is no memory fails by itself; the same process serves the next."""
    stage.serve("hungry", Hungry, 512 << 20)
    handle = stage.client.get_handle("hungry").options(timeout_s=20)
    pid = handle.call(size=1)
    times = at_scale(5, 100)
    for _ in range(times):
        with pytest.raises(MemoryError):
            handle.call(size=4 << 30)
        assert handle.call(size=1) == pid
    note(times, f"{times} requests without memory failed alone; {times} between them were served")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def answer(request: object) -> int:
    """Answer."""
    return 1


def test_a_full_disk_under_the_state_changes_nothing(small_disk: Path) -> None:
    """A change that cannot be kept is refused; calls go on, and the state of before is restored."""
    options = {"runtime": "local", "name": "full-disk", "http_options": {"port": 0}, "state": str(small_disk / "state")}
    client = serve.start(**options)  # type: ignore[arg-type]
    try:
        client.create_backend("m", answer)
        client.create_endpoint("m", backend="m")
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", 0) as file:
            while True:
                file.write(bytes(1024))
        times = at_scale(3, 30)
        for number in range(times):
            with pytest.raises(OSError, match="No space left on device"):
                client.create_endpoint(f"e{number}", backend="m")
            assert client.get_handle("m").call() == 1
        assert list(client.list_endpoints()) == ["m"]
        filler.unlink()
        client.create_endpoint("later", backend="m")
        assert list(client.list_endpoints()) == ["m", "later"]
    finally:
        client.shutdown()
    note(times, f"{times} changes refused, 0 calls failed")
