"""The adapters under real web servers: worker processes that fork, are recycled, reloaded and ended.

The instance runs in the tests' own process, so which processes are connected to it can be asked of the kernel.
"""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.responses import StreamingResponse

import serve_bridge as serve
from serve_bridge.instance import instance_file as instances
from serve_bridge.wire.heads import INLINE_BODY_BYTES
from tests.e2e.support.web_servers import (
    CALLERS,
    DJANGO_RELOADING,
    FLASK_RELOADING,
    PATCHED,
    PRELOADED,
    RECYCLING,
    SERVERS,
    WORKERS,
    Answer,
    Command,
    WebServer,
    connected_processes,
    lost,
)
from tests.faults.report.figures import note
from tests.faults.support.counts import at_scale
from tests.support.programs import ROOT, run_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

_numbers = itertools.count()


WRONG_LENGTHS = {1_000_005: 5, 1_000_008: 8, 1_000_012: 12, 1_000_100: 100}
"""By the number of a request: the Content-Length that its answer, of 10 bytes in two pieces, declares."""


async def echo(request: Any) -> Any:
    """Return what of the request arrived; or an answer of another length than it declares."""
    if (declared := WRONG_LENGTHS.get(int(request.path_params["number"]))) is not None:
        return StreamingResponse(iter([b"12345"] * 2), headers={"content-length": str(declared)})
    return f"{request.method} {request.path_params['number']} {(await request.body()).decode()}"


class Instance:
    """The instance that the servers forward to; started anew, it is found by the same name."""

    def __init__(self) -> None:
        self._name = f"servers-{next(_numbers)}"
        self.file = instances.discovery_file(self._name)
        self.client = self.start()

    def start(self) -> serve.Client:
        """Start it."""
        self.client = serve.start(runtime="local", name=self._name, http_options={"location": "NoServer"})
        self.client.create_backend("echo", echo, config={"num_replicas": 2})
        self.client.create_endpoint("echo", backend="echo")
        return self.client

    def replicas(self) -> dict[str, str]:
        """Return the state of each of its replicas."""
        return dict(self.client.status()["backends"]["echo"]["replicas"])

    def connected(self, processes: set[int]) -> set[int]:
        """Return those of *processes* that are connected to it."""
        return processes & connected_processes(Path(self.client.address).parent)


@pytest.fixture(scope="module")
def instance(runtime_directory: Path) -> Iterator[Instance]:
    """One for all servers; their processes know only where it is."""
    instance = Instance()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVE_BRIDGE_ADDRESS", str(instance.file))
        yield instance
    instance.client.shutdown()


@dataclass(frozen=True)
class Running:
    """A server whose workers are all up.

    Attributes:
        server: It.
        fresh: What each worker said of itself before it forwarded anything.
        connected: Which of its processes were connected to the instance then.
    """

    server: WebServer
    fresh: Mapping[int, Mapping[str, Any]]
    connected: set[int]


@pytest.fixture(scope="module", params=SERVERS)
def running(
    request: pytest.FixtureRequest, instance: Instance, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Each server in turn."""
    with WebServer(SERVERS[request.param], tmp_path_factory.mktemp("server") / "log") as server:
        fresh = server.ready()
        yield Running(server, fresh, instance.connected(server.family()))


def test_nothing_of_the_engine_is_in_a_worker_before_its_first_request(running: Running) -> None:
    """No thread, no connection, no Ray."""
    found = [(facts["threads"], facts["connections"], facts["ray"]) for facts in running.fresh.values()]
    assert (found, running.connected) == ([([], [], False)] * WORKERS, set())


def test_many_requests_at_a_time_are_answered_by_all_workers(running: Running) -> None:
    """Each with what belongs to it."""
    answers: list[Answer] = []

    def all_answer() -> bool:
        answers.extend(running.server.ask(100))
        return {answer.worker for answer in answers} == set(running.fresh)

    wait_until(all_answer)
    assert lost(answers) == []


@pytest.mark.parametrize(("number", "declared"), WRONG_LENGTHS.items())
def test_an_answer_of_a_wrong_length_does_not_run_into_the_next(running: Running, number: int, declared: int) -> None:
    """The server closes the connection of an answer that is too short, or ends one that is too long where it should."""
    head, _, rest = running.server.two_answers(number).partition(b"\r\n\r\n")
    if b" 200 " in head:  # otherwise the server had not begun to send when the body broke off
        assert b"1234512345".startswith(rest[:declared])
        assert rest[declared:].startswith(b"HTTP/1.1 ") or not rest[declared:]
    else:
        assert not head or b" 500 " in head


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_body_arrives_whole_whatever_its_framing(running: Running, chunked: bool) -> None:
    """Its size makes no difference either."""
    for size in (0, 1, INLINE_BODY_BYTES - 1, INLINE_BODY_BYTES, INLINE_BODY_BYTES + 1):
        answer = running.server.upload(b"x" * size, chunked=chunked)
        assert (answer.status_code, len(answer.text)) == (200, len("POST 1 ") + size)


def test_workers_come_back_when_the_instance_starts_anew(running: Running, instance: Instance) -> None:
    """By themselves; meanwhile they answer 503."""
    assert lost(running.server.ask(2 * CALLERS)) == []
    instance.client.shutdown()
    meanwhile = running.server.ask(WORKERS)
    instance.start()
    assert {answer.status for answer in meanwhile} == {503}
    wait_until(lambda: not lost(running.server.ask(2 * CALLERS)))


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_has_forwarded_ends_at_sigterm(name: str, instance: Instance, tmp_path: Path) -> None:
    """At once, with exit code 0, and no connection of it stays."""
    with WebServer(SERVERS[name], tmp_path / "log") as server:
        server.ready()
        assert lost(server.ask(2 * CALLERS)) == []
        processes = server.family()
        assert server.end() == 0, server.log
    wait_until(lambda: not instance.connected(processes))


@pytest.mark.parametrize("name", RECYCLING)
def test_recycled_workers_lose_no_request(name: str, instance: Instance, tmp_path: Path) -> None:
    """Nor does their end take anything of the instance along."""
    replicas = instance.replicas()
    answers: list[Answer] = []
    restarts = at_scale(WORKERS, 30)

    def recycled() -> bool:
        answers.extend(server.ask(2 * CALLERS))
        return len({answer.worker for answer in answers}) >= WORKERS + restarts

    with WebServer(RECYCLING[name], tmp_path / "log") as server:
        server.get("/facts")
        wait_until(recycled, 20.0 * restarts)
    assert lost(answers) == []
    assert instance.replicas() == replicas
    note(restarts, f"{name}: {restarts} workers replaced, {len(answers)} requests, 0 lost")


def test_a_preloading_master_has_nothing_of_the_engine(instance: Instance, tmp_path: Path) -> None:
    """It has imported the app, and its workers have forwarded."""
    written = tmp_path / "facts"
    with WebServer(PRELOADED, tmp_path / "log", environment={"MASTER_FACTS": str(written)}) as server:
        server.ready()
        server.ask(2 * CALLERS)
        assert server.process.pid not in instance.connected(server.family())
        server.end()
    assert json.loads(written.read_text()) == {
        "pid": server.process.pid,
        "threads": [],
        "connections": [],
        "ray": False,
        "package": str(ROOT / "serve_bridge"),
        "version": serve.__version__,
    }


def test_workers_start_afresh_where_the_preloaded_app_has_called_already(instance: Instance, tmp_path: Path) -> None:
    """What the master opened stays the master's."""
    with WebServer(PRELOADED, tmp_path / "log", environment={"CALL_AT_IMPORT": "1"}) as server:
        workers = server.ready()
        wait_until(lambda: {answer.worker for answer in server.ask(CALLERS) if answer.status == 200} == set(workers))
        assert lost(server.ask(2 * CALLERS)) == []
        assert instance.connected(server.family()) == {server.process.pid, *workers}
        assert server.end() == 0, server.log


# Reloaders

# Flask's reloader would take watchdog where that is installed, and watch all files of the environment, which other
# tests write to at the same time; the kernel then drops events.
FLASK_SITE = f"""
import sys

from tests.e2e.support.apps.flask_app import app

@app.get("/word")
def word() -> str:
    return "old"

if __name__ == "__main__":
    app.run(port=int(sys.argv[1]), use_reloader=True, reloader_type="stat", exclude_patterns=["{ROOT}/*"])
"""
DJANGO_SETTINGS = """
from tests.e2e.support.apps.django_project.settings import *

ROOT_URLCONF = "site_urls"
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.utils.autoreload": {"level": "DEBUG", "handlers": ["console"]}},
}
"""
DJANGO_SITE = """
from django.http import HttpResponse
from django.urls import path
from tests.e2e.support.apps.django_project.urls import urlpatterns as own

urlpatterns = [*own, path("word", lambda request: HttpResponse("old"))]
"""


@pytest.mark.parametrize(
    ("command", "files"),
    [
        pytest.param(FLASK_RELOADING, {"site_app.py": FLASK_SITE}, id="flask"),
        pytest.param(DJANGO_RELOADING, {"site_urls.py": DJANGO_SITE, "site_settings.py": DJANGO_SETTINGS}, id="django"),
    ],
)
def test_a_reloader_serves_new_code(
    command: Command, files: Mapping[str, str], instance: Instance, tmp_path: Path
) -> None:
    """The process that serves is another one; its parent is never connected."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    changed = tmp_path / next(iter(files))
    with WebServer(command, tmp_path / "log", directory=tmp_path) as server:
        assert server.get("/word").text == "old"
        assert lost(server.ask(CALLERS)) == []
        [before] = instance.connected(server.family())
        if command is DJANGO_RELOADING:  # it takes a file as it first sees it, be that after the first request
            wait_until(lambda: f"{changed} first seen" in server.log)
        # Another length: a compiled file counts for a source of the same size and second.
        changed.write_text(changed.read_text().replace("old", "another"))
        wait_until(lambda: server.get("/word").text == "another")
        assert lost(server.ask(CALLERS)) == []
        [after] = instance.connected(server.family())
        assert {before, after} & {server.process.pid} == set()
        assert before != after
        assert psutil.Process(server.process.pid).num_threads() == 1


# Monkey-patching

IN_FLASK = """
    import os
    {patch}
    from tests.e2e.support.apps.flask_app import app, bridge
    try:
        with app.app_context():
            bridge.client
    except Exception as error:
        print(type(error).__name__, error)
"""
IN_DJANGO = """
    import os
    {patch}
    import django
    from django.core import checks
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.e2e.support.apps.django_project.settings"
    django.setup()
    print(*(f"{{message.id}} {{message.msg}}" for message in checks.run_checks(tags=["serve_bridge"])))
"""
PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "os.environ['EVENTLET_NO_GREENDNS'] = 'yes'; import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("library", PATCHES)
def test_a_patched_process_gets_an_error_that_names_the_library(library: str, instance: Instance) -> None:
    """At first use."""
    printed = run_program(IN_FLASK.format(patch=PATCHES[library]))
    assert printed.startswith("ConfigError")
    assert library in printed


DOORS = """
    import os, sys
    {patch}
    import asyncio, pickle
    import serve_bridge as serve

    def told(use):
        try:
            use()
        except serve.ConfigError as error:
            print(error)

    told(serve.connect)
    told(lambda: serve.start(runtime="local", http_options={{"location": "NoServer"}}))
    told(lambda: serve.start(runtime="ray", http_options={{"location": "NoServer"}}))
    handle = pickle.loads(bytes.fromhex(sys.argv[1]))
    told(lambda: handle.call(1))
    told(lambda: next(handle.stream(1)))
    told(lambda: asyncio.run(handle.acall(1)))
"""


@pytest.mark.parametrize("library", PATCHES)
def test_every_way_into_an_instance_refuses_a_patched_process(library: str, instance: Instance) -> None:
    """The message names the library and the way out, and no call hangs."""
    handle = pickle.dumps(instance.client.get_handle("echo")).hex()
    told = run_program(DOORS.format(patch=PATCHES[library]), handle).splitlines()
    assert len(told) == 6
    assert all(line.startswith(library) and "prefork" in line for line in told)


@pytest.mark.parametrize("library", PATCHES)
def test_django_checks_for_patching(library: str) -> None:
    """Before anything is served."""
    printed = run_program(IN_DJANGO.format(patch=PATCHES[library]))
    assert printed.startswith("serve_bridge.")
    assert library in printed


def test_a_gevent_worker_answers_with_an_error_and_logs_why(instance: Instance, tmp_path: Path) -> None:
    """It does not hang."""
    with WebServer(PATCHED, tmp_path / "log") as server:
        server.ready()
        assert {answer.status for answer in server.ask(CALLERS)} == {500}
        assert "ConfigError" in server.log
        assert "gevent" in server.log
        assert server.end() == 0
