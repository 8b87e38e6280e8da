"""Django: a whole project with backends that use the ORM, under each of Django's test runners and its server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.adapters.support.django_manage import LIMIT_S, Project
from tests.support.programs import children_where, descendants
from tests.support.waiting import wait_until


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with SQLite."""
    return Project(tmp_path / "site")


@pytest.mark.parametrize("words", [(), ("--parallel", "2"), ("--reverse",)], ids=["serial", "parallel", "reverse"])
def test_the_projects_own_tests_pass(project: Project, words: tuple[str, ...]) -> None:
    """TestCase, LiveServerTestCase, Client, AsyncClient, RequestFactory, with an engine in each process."""
    assert "\nOK" in project.manage("test", "shop", *words, PROJECT_RUNTIME="local")


def test_the_projects_own_tests_pass_with_pytest(project: Project) -> None:
    """With pytest-django: `client`, `django_db`, `live_server`; with pytest-asyncio, whose loop is a plain one."""
    options = ("-p", "no:cacheprovider", "-p", "no:randomly", "-o", "pythonpath=.")
    options += ("-o", "asyncio_default_fixture_loop_scope=function")
    # Django closes no connection to a database in memory, so each thread that ends leaves one; Python 3.13 warns of it.
    options += ("-W", "ignore:unclosed database:ResourceWarning")
    done = project.run("-m", "pytest", *options, "shop/with_pytest.py", PROJECT_RUNTIME="local")
    assert "13 passed" in done.stdout, done.stdout


def test_the_projects_checks_pass(project: Project) -> None:
    """Nothing of it needs an instance."""
    assert "no issues" in project.manage("check")


def test_no_command_connects_or_starts_anything(project: Project) -> None:
    """`ready()` runs in each of them."""
    program = (
        "import django, sys, threading; django.setup(); "
        "print(threading.active_count(), 'ray' in sys.modules, 'shop.backends' in sys.modules)"
    )
    assert project.run("-c", program, PROJECT_RUNTIME="local").stdout == "1 False False\n"


@pytest.fixture
def dev(project: Project) -> Iterator[str]:
    """The development server, started by one command; yields its URL."""
    project.manage("migrate", "--verbosity", "0")
    log = project.directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-u", "manage.py", "serve_bridge", "dev", "127.0.0.1:0"],
            cwd=project.directory,
            env=project.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def url() -> str | None:
        assert server.poll() is None, log.read_text()
        # Its own line names port 0; the kernel's choice is what its child listens on.
        listening: list[int] = []
        for child in descendants(server):
            with suppress(psutil.NoSuchProcess):
                connections = child.net_connections("tcp4")
                listening += [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]
        return f"http://127.0.0.1:{listening[0]}" if listening else None

    try:
        yield wait_until(url, LIMIT_S) or ""
    finally:
        # The site first: the reloader ends with it, and would kill it.
        for child in descendants(server):
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        server.wait(LIMIT_S)


def test_one_command_runs_the_site_with_its_backends(dev: str) -> None:
    """And one reloader: the command has one child."""
    assert httpx.get(f"{dev}/count/", trust_env=False, timeout=30).json() == 0
    assert len(children_where(lambda process: "serve_bridge dev" in " ".join(process.cmdline()))) == 2
