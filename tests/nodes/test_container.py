"""The Dockerfile of docs/deploy/containers.md: its steps are run, and its container serves on another host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from matrix.pythons import PYTHONS, Python, Unavailable
from tests.adapters.support.pages import blocks_of
from tests.nodes.conftest import hosts
from tests.nodes.support.hosts import Host
from tests.nodes.support.images import Image
from tests.support.programs import ROOT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(600)]

PAGE = {block.text.partition("\n")[0]: block.text for block in blocks_of(ROOT / "docs" / "deploy" / "containers.md")}
KEYS = "/run/keys"
ENGINE = """
    import sys
    import serve_bridge as serve

    host, keys = sys.argv[1:]

    async def mood(request):
        return {"happy": len((await request.json())["text"])}

    client = serve.start(
        runtime="local",
        name="shop",
        listen=f"{host}:7000",
        data_ports="7001-7050",
        key_file=f"{keys}/secret",
        http_options={"location": "NoServer"},
    )
    client.create_backend("mood", mood)
    client.create_endpoint("mood", backend="mood")
    print("ready", flush=True)
    sys.stdin.read()
    client.shutdown()
"""
POST = """
    import sys, urllib.request
    asked = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
    print(urllib.request.urlopen(asked, timeout=60).read().decode())
"""


@pytest.fixture(scope="module")
def docker() -> Iterator[tuple[Host, Host]]:
    """Two hosts: one for the engine, and one for containers."""
    with hosts() as switch:
        yield switch.add("engine"), switch.add("docker")


@pytest.fixture(scope="module")
def python() -> Python:
    """The Debian system of `make newer-python`. It takes minutes to make, so only `make nodes` makes it here."""
    if "NODES_ALL" not in os.environ and not PYTHONS[0].root.exists():
        pytest.skip("needs the system that `make newer-python` makes; `make nodes` makes it too")
    try:
        PYTHONS[0].build()
    except Unavailable as reason:
        pytest.skip(f"no system for the image: {reason}")
    return PYTHONS[0]


@pytest.fixture(scope="module")
def image(python: Python, docker: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of the page, with serve_bridge from this checkout and the tested versions of other packages."""
    wheels, files = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("files")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(wheels), str(ROOT)], check=True)
    (files / "web.py").write_text(PAGE["# web.py"])
    image = Image(docker[1], files, {"PIP_FIND_LINKS": "/wheels", "PIP_CONSTRAINT": "/wheels/constraints.txt"})
    image.begin(python)
    image.path("/wheels").mkdir()
    for file in [*wheels.iterdir(), ROOT / "constraints.txt"]:
        image.path(f"/wheels/{file.name}").write_bytes(file.read_bytes())
    image.build(PAGE["# Dockerfile"])
    return image


@pytest.fixture(scope="module")
def address(docker: tuple[Host, Host], image: Image) -> Iterator[str]:
    """The address of an instance on the engine's host; its key for forwarding is mounted into the container."""
    engine, _ = docker
    engine.path(KEYS).mkdir(mode=0o700)
    process = engine.start_python(ENGINE, engine.address, KEYS)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        key = image.path(image.variables["SERVE_BRIDGE_KEY_FILE"])
        key.parent.mkdir(mode=0o755)
        key.touch(0o600)
        key.write_bytes(engine.path(f"{KEYS}/{key.name}").read_bytes())
        os.chown(key, int(image.user), int(image.user))
        yield f"serve-bridge://{engine.address}:7000/shop"
    finally:
        process.communicate()


def test_the_container_of_the_page_serves(docker: tuple[Host, Host], image: Image, address: str) -> None:
    """Without Ray and as user 1000, gunicorn is process 1. It answers another host, and ends in order on SIGTERM."""
    engine, host = docker
    assert not list(image.path("/usr/local/lib").glob("python*/site-packages/ray"))
    container = image.run({"SERVE_BRIDGE_ADDRESS": address})
    try:
        wait_until(image.is_healthy, 60.0)
        family = psutil.Process(container.pid).children(recursive=True)
        (first,) = [each for each in family if pids_of(each)[-1] == 1]
        assert "/gunicorn --bind" in " ".join(first.cmdline())
        assert first.uids().real == int(image.user) == 1000
        answer = engine.python(POST, f"http://{host.address}:{image.port}/mood", json.dumps({"text": "good"}))
        assert json.loads(answer) == {"happy": 4}
        first.terminate()
        assert container.wait(80) == 0
        assert not image.is_healthy()
    finally:
        if container.poll() is None:
            for process in psutil.Process(container.pid).children(recursive=True):
                process.kill()
        container.communicate()


def pids_of(process: psutil.Process) -> list[int]:
    """Return the number of *process* in each pid namespace, the innermost one last."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return [int(word) for line in lines if line.startswith("NSpid:") for word in line.split()[1:]]
