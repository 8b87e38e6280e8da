"""The units of docs/deploy/systemd.md on two hosts: their commands, with the address, the ports and the variables."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.adapters.support.pages import blocks_of
from tests.nodes.conftest import hosts
from tests.nodes.support.hosts import Host
from tests.support.programs import ROOT
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif("NODES_ALL" not in os.environ, reason="takes long; `make nodes` runs it"),
]

PAGES = ROOT / "docs" / "deploy"
UNITS = {
    Path(block.text.partition("\n")[0]).name: block.text
    for block in blocks_of(PAGES / "systemd.md")
    if block.language == "ini"
}
APP = next(block.text for block in blocks_of(PAGES / "containers.md") if block.text.startswith("# web.py"))
INSTEAD = {"/opt/serve/bin/": f"{Path(sys.executable).parent}/", "/var/lib/serve": "/tmp/serve", "/srv/web": "/tmp/web"}
"""The places of the page, and those of the test. Each host has a /tmp of its own."""
TOKEN = "0123456789abcdef" * 4
DEPLOY = """
    import asyncio, pathlib
    import serve_bridge as serve

    async def mood(request):
        data = request.data if isinstance(request.data, dict) else await request.json()
        if data["text"] == "wait":
            pathlib.Path("/tmp/serve/waiting").touch()
            while not pathlib.Path("/tmp/serve/gate").exists():
                await asyncio.sleep(0.05)
        return {"happy": len(data["text"])}

    client = serve.connect(name="shop")
    client.create_backend("mood", mood)
    client.create_endpoint("mood", backend="mood")
    client.close()
"""
ASK = """
    import sys, urllib.request
    asked = urllib.request.Request(
        "http://127.0.0.1:8080/mood", sys.argv[1].encode(), {"Content-Type": "application/json"}
    )
    print(urllib.request.urlopen(asked, timeout=60).read().decode())
"""


class Service:
    """A unit on a host, run by hand."""

    def __init__(self, host: Host, name: str) -> None:
        text = UNITS[name]
        for old, new in INSTEAD.items():
            text = text.replace(old, new)
        lines = [line.partition("=")[::2] for line in text.splitlines() if "=" in line and not line.startswith("#")]
        self._host = host
        self._options = dict(lines)
        variables = [word for option, value in lines if option == "Environment" for word in shlex.split(value)]
        self.environment: Mapping[str, str] = dict(word.split("=", 1) for word in variables)

    def _words(self, option: str) -> list[str]:
        directory = self._options.get("WorkingDirectory", "/")
        return ["/usr/bin/env", f"--chdir={directory}", *shlex.split(self._options[option])]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run ExecStart. At the end, SIGTERM to the main process ends it within TimeoutStopSec."""
        process = self._host.start(*self._words("ExecStart"), environment=self.environment)
        try:
            yield
            (main,) = psutil.Process(process.pid).children()
            main.terminate()
            process.wait(float(self._options["TimeoutStopSec"]))
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()

    def run(self, option: str) -> int:
        """Run a command of a `oneshot`, within the limit of systemd; return its exit status."""
        limit = "TimeoutStartSec" if option == "ExecStart" else "TimeoutStopSec"
        words = ["timeout", self._options[limit], *self._words(option)]
        return self._host.ask(*words, environment=self.environment)[0]


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Host, Host]]:
    """The machine with Ray, which has the address of the page, and a web host."""
    with hosts() as switch:
        ray, web = switch.add("ray"), switch.add("web")
        for host, address in ((ray, "10.0.0.5"), (web, "10.0.0.6")):
            host.succeed("ip", "address", "add", f"{address}/24", "dev", "eth0")
            for directory in ("/tmp/serve", "/tmp/serve/state", "/run/serve", "/tmp/web"):
                host.path(directory).mkdir(mode=0o700)
        ray.path("/tmp/serve/ray.token").touch(0o600)
        ray.path("/tmp/serve/ray.token").write_text(TOKEN)
        web.path("/tmp/web/web.py").write_text(APP)
        yield ray, web


def test_the_units_serve_stop_and_restore(machines: tuple[Host, Host]) -> None:
    """A stop waits for requests under way. A new start restores the endpoint, and the web host needs no restart."""
    ray, web = machines
    head, instance = Service(ray, "ray-head.service"), Service(ray, "serve-bridge.service")
    app = Service(web, "web.service")

    def mood(text: str) -> int:
        return int(json.loads(web.python(ASK, json.dumps({"text": text})))["happy"])

    def is_up() -> bool:
        return web.ask("curl", "--silent", "--fail", "http://127.0.0.1:8080/healthz")[0] == 0

    with head.running():
        # Restart=on-failure repeats the start until Ray is up.
        wait_until(lambda: instance.run("ExecStart") == 0, 300)
        key = web.path("/tmp/serve/shop.forward.key")
        key.touch(0o600)
        key.write_bytes(ray.path("/tmp/serve/state/shop/shop.forward.key").read_bytes())
        ray.python(DEPLOY, environment=instance.environment)
        with app.running():
            wait_until(is_up, 60)
            assert mood("good") == 4
            with ThreadPoolExecutor() as threads:
                slow = threads.submit(mood, "wait")
                wait_until(ray.path("/tmp/serve/waiting").exists, 60)
                stop = threads.submit(instance.run, "ExecStop")
                wait_until(lambda: not serves(mood), 60)  # the instance drains
                ray.path("/tmp/serve/gate").touch()
                assert stop.result() == 0
                assert slow.result() == 4
            assert instance.run("ExecStart") == 0
            wait_until(lambda: serves(mood), 60)


def serves(mood: Callable[[str], int]) -> bool:
    """Return whether the answer is one of the endpoint, not 503."""
    try:
        return mood("good") == 4
    except AssertionError:
        return False
