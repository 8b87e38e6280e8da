"""Web hosts as docs/deploy/systemd.md and operations.md describe them: they are reloaded, stopped and restarted."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.adapters.support.pages import blocks_of
from tests.support.listening import free_port
from tests.support.listening_engine import port_of
from tests.support.programs import ROOT
from tests.support.shop import Shop, open_shop
from tests.support.units import Unit
from tests.support.waiting import wait_until

PAGES = ROOT / "docs" / "deploy"
BIN = f"{Path(sys.executable).parent}/"
TIMEOUT_S = 60.0
UNIT = next(
    block.text for block in blocks_of(PAGES / "systemd.md") if block.text.startswith("# /etc/systemd/system/web.")
)
APP = next(block.text for block in blocks_of(PAGES / "containers.md") if block.text.startswith("# web.py"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all tests."""
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@contextmanager
def web_host(shop: Shop, directory: Path) -> Iterator[tuple[Unit, str]]:
    """Start the unit of the page in *directory*; yield it and its URL."""
    (directory / "web.py").write_text(APP)
    port = free_port()
    instead = {
        "/opt/serve/bin/gunicorn": f"{BIN}gunicorn --no-control-socket",
        "--workers 4": "--workers 2",
        "/srv/web": str(directory),
        "10.0.0.5:7000": f"127.0.0.1:{port_of(shop.client)}",
        "/var/lib/serve": str(shop.keys),
        "127.0.0.1:8080": f"127.0.0.1:{port}",
    }
    unit = Unit(UNIT, instead)
    unit.start({"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(directory)})
    try:
        yield unit, f"http://127.0.0.1:{port}"
    finally:
        unit.kill()


def ask(url: str, text: str = "good") -> int:
    """Send one request on a connection of its own; return how happy the answer is."""
    answer = httpx.post(f"{url}/mood", json={"text": text}, timeout=TIMEOUT_S, trust_env=False)
    return int(answer.raise_for_status().json()["happy"])


class Load:
    """Clients of the hosts in use, which send requests in turn; the first error ends the block."""

    def __init__(self, hosts: list[str]) -> None:
        self.answered = 0
        self._hosts = hosts
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._clients: list[Future[None]] = []

    def __enter__(self) -> Load:
        self._clients = [self._pool.submit(self._run) for _ in range(4)]
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    def _run(self) -> None:
        for number in itertools.count():
            with self._lock:
                host = self._hosts[number % len(self._hosts)]
                self._asked[host] += 1
            assert ask(host) == 4
            with self._lock:
                self._asked[host] -= 1
                self.answered += 1
            if self._ended.is_set():
                return

    def take_out(self, host: str) -> None:
        """Send no requests to *host*, and wait for those under way."""
        with self._lock:
            self._hosts.remove(host)
        wait_until(lambda: self._asked[host] == 0, TIMEOUT_S)

    def put_back(self, host: str) -> None:
        """Send requests to *host* again."""
        with self._lock:
            self._hosts.append(host)

    def wait_for_more(self, count: int) -> None:
        """Wait until *count* requests more are answered, or one has failed."""
        until = self.answered + count
        wait_until(lambda: self.answered >= until or any(client.done() for client in self._clients), TIMEOUT_S)


@contextmanager
def slow_request(shop: Shop, url: str) -> Iterator[Future[int]]:
    """Have a request under way; in the block it can be let go by `shop.gate`."""
    waiting = shop.keys / "waiting"
    with ThreadPoolExecutor(1) as thread:
        try:
            asked = thread.submit(ask, url, "wait")
            wait_until(waiting.exists, TIMEOUT_S)
            yield asked
        finally:
            shop.gate.touch()
            with suppress(httpx.HTTPError):
                asked.result()
            waiting.unlink()
            shop.gate.unlink()


@pytest.mark.skipif(not Path("/bin/kill").exists(), reason="there is no /bin/kill: apt-get install procps")
def test_a_reload_replaces_the_workers_and_loses_nothing(shop: Shop, tmp_path: Path) -> None:
    """ExecReload, with new requests and one under way."""
    with web_host(shop, tmp_path) as (unit, url), slow_request(shop, url) as slow, Load([url]) as load:
        load.wait_for_more(10)
        before = unit.workers()
        unit.reload()
        wait_until(lambda: len(unit.workers() - before) == len(before), TIMEOUT_S)
        load.wait_for_more(10)
        shop.gate.touch()
        assert slow.result() == len("wait")
        wait_until(lambda: not unit.workers() & before, TIMEOUT_S)
        load.wait_for_more(10)
    assert load.answered >= 30


def test_a_stop_waits_for_the_requests_under_way(shop: Shop, tmp_path: Path) -> None:
    """SIGTERM to the master only; all ends within TimeoutStopSec."""
    with web_host(shop, tmp_path) as (unit, url), slow_request(shop, url) as slow, ThreadPoolExecutor(1) as thread:
        stopped = thread.submit(unit.stop)
        wait_until(lambda: len(unit.workers()) == 1, TIMEOUT_S)  # the idle ones have ended
        assert not slow.done()
        shop.gate.touch()
        assert (slow.result(), stopped.result()) == (len("wait"), 0)


def listens(url: str) -> bool:
    """Return whether a server takes connections there."""
    with suppress(httpx.ConnectError, httpx.ReadError):
        httpx.get(f"{url}/healthz", timeout=TIMEOUT_S, trust_env=False)
        return True
    return False


def test_web_hosts_are_restarted_one_by_one(shop: Shop, tmp_path: Path) -> None:
    """Each leaves the load balancer, restarts, and serves again once its health check answers; no request fails."""
    with ExitStack() as stack:
        hosts = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            hosts.append(stack.enter_context(web_host(shop, tmp_path / name)))
        with Load([url for _, url in hosts]) as load:
            load.wait_for_more(10)
            for unit, url in hosts:
                load.take_out(url)
                assert unit.stop() == 0
                load.wait_for_more(5)
                unit.start({"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)})
                wait_until(lambda url=url: listens(url), TIMEOUT_S)
                load.put_back(url)
                load.wait_for_more(10)
    assert load.answered >= 40


def test_a_backup_restores_what_has_changed_since(shop: Shop, tmp_path: Path) -> None:
    """The commands of the page, in a shell."""
    (text,) = [
        block.text for block in blocks_of(PAGES / "operations.md") if block.text.startswith("serve-bridge export")
    ]
    export, plan, restore = text.strip().splitlines()

    def run(command: str) -> str:
        return subprocess.run(
            command.replace("serve-bridge", f"{BIN}serve-bridge"),
            shell=True,
            cwd=tmp_path,
            env={**environ_of(shop), "PATH": BIN},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    run(export)
    assert "mood" in json.loads((tmp_path / "backup.json").read_text())["endpoints"]
    shop.client.create_backend("other", lambda request: "other")
    shop.client.set_traffic("mood", {"other": 1.0})
    assert "mood" in run(plan)
    assert shop.client.get_handle("mood").call({"text": "good"}) == "other"
    run(restore)
    assert shop.client.get_handle("mood").call({"text": "good"}) == {"happy": 4}
    assert shop.client.list_backends().keys() == {"mood"}


def environ_of(shop: Shop) -> dict[str, str]:
    """Return the environment of commands that manage the instance."""
    return {"SERVE_BRIDGE_ADDRESS": shop.client.address, "PYTHONPATH": str(ROOT)}
