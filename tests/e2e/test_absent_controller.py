"""Web workers that start while the controller does not answer: nothing of the app waits for it again and again."""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_bridge.instance import instance_file as instances
from tests.e2e.support.web_servers import CALLERS, SERVERS, WebServer
from tests.support.programs import start_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

MANY = 10 * CALLERS
"""So many requests take longer than their callers wait, if each of them waits for the controller."""
INSTANCE = """
    import signal, sys
    import serve_bridge as serve

    async def echo(request):
        return (await request.body()).decode()

    client = serve.start(runtime="local", name=sys.argv[1], http_options={"location": "NoServer"})
    client.create_backend("echo", echo)
    client.create_endpoint("echo", backend="echo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print("ready", flush=True)
    signal.pause()
"""
_numbers = itertools.count()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """An instance in a process that was stopped; the kernel still takes connections to it."""
    name = f"absent-{next(_numbers)}"
    with start_program(INSTANCE, name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        monkeypatch.setenv("SERVE_BRIDGE_ADDRESS", str(instances.discovery_file(name)))
        process.send_signal(signal.SIGSTOP)
        yield process
        process.send_signal(signal.SIGCONT)
        process.terminate()


@pytest.mark.parametrize("server", ["gunicorn-sync-flask", "gunicorn-gthread-django", "uvicorn-starlette"])
def test_an_absent_controller_is_waited_for_once(server: str, stopped: subprocess.Popen[str], tmp_path: Path) -> None:
    """Then forwarded requests get 503 at once and plain views answer, until the controller does."""
    with WebServer(SERVERS[server], tmp_path / "log") as site:
        site.ready()
        assert {answer.status for answer in site.ask(CALLERS)} == {503}
        wait_until(lambda: {answer.status for answer in site.ask(MANY)} == {503})
        assert {site.get("/facts").status_code for _ in range(MANY)} == {200}
        stopped.send_signal(signal.SIGCONT)
        wait_until(lambda: {answer.status for answer in site.ask(CALLERS)} == {200})
        assert site.end() == 0, site.log
