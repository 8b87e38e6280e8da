"""The Flask and Django examples on a web host without Ray, over TLS, while the cluster is lost and starts again."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import trustme

from examples.django_app.digits.backends import V1, V2
from serve_bridge.config.tls import Tls
from serve_bridge.instance.tls_files import ENDINGS
from tests.nodes.conftest import LOGGED_IN, RUNTIME_DIRECTORY, hosts
from tests.nodes.support.hosts import Host
from tests.support.certificates import make_tls
from tests.support.programs import ROOT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(600)]

LIMIT_S = 120.0
"""Upper limit for one step, in seconds."""
BROKEN_S = 2.0
"""Seconds after a kill in which a request may still go out on a broken connection. Its answer is 502 "unknown"."""
APPS = {
    "flask": ("8001", "examples.flask_app:create_app()"),
    "django": ("8002", "examples.django_app.wsgi:application"),
}
"""The port and the application of each example."""
SITE = "/tmp/site"
"""Where the examples are on the web host."""
ANSWERS = "/tmp/answers"
SEEN = "/tmp/seen"
"""Where the shadow notes its requests, on the engine's host."""

SETUP = f"""
    import serve_bridge as serve

    async def observe(request):
        with open({SEEN!r}, "a") as file:
            file.write(".")

    client = serve.connect(name="site")
    client.create_backend("observer", observe, ray_actor_options={{"num_cpus": 0}})
    for version in ({V1!r}, {V2!r}):
        client.update_backend_config(version, {{"num_replicas": 1}})
    client.set_traffic("digits", {{{V1!r}: 0.5, {V2!r}: 0.5}})
    client.shadow_traffic("digits", "observer", 1.0)
"""

VISITOR = f"""
    import json, select, sys, time
    from pathlib import Path
    import httpx

    engine, password = sys.argv[1:]
    picture = Path("{SITE}/examples/static/samples/7.png").read_bytes()
    flask, django, proxy = (
        httpx.Client(base_url=f"http://{{place}}", timeout=60, trust_env=False)
        for place in ("127.0.0.1:8001", "127.0.0.1:8002", f"{{engine}}:8000")
    )
    django.get("/accounts/login/")
    login = {{"username": "ada", "password": password, "csrfmiddlewaretoken": django.cookies["csrftoken"]}}
    django.post("/accounts/login/", data=login)
    token = {{"x-csrftoken": django.cookies["csrftoken"]}}
    targets = (
        ("flask", flask, "/api/digits", {{}}),
        ("django", django, "/api/digits/", token),
        ("proxy", proxy, "/digits", {{}}),
    )
    with open({ANSWERS!r}, "a", buffering=1) as answers:
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            for name, http, path, headers in targets:
                asked = time.monotonic()
                try:
                    answer = http.post(path, files={{"image": picture}}, headers=headers)
                except httpx.TransportError:
                    print(json.dumps([name, asked, 0, None, None]), file=answers)
                    continue
                status, retry = answer.status_code, answer.headers.get("retry-after")
                backend = answer.json()["backend"] if status == 200 else None
                print(json.dumps([name, asked, status, retry, backend]), file=answers)
"""


@dataclass(frozen=True)
class Answer:
    """An answer to a visitor.

    Attributes:
        target: "flask" or "django"; "proxy" is the engine's own.
        asked: When the visitor asked, on the monotonic clock.
        status: The status; 0 if there was no connection.
        retry_after: The header Retry-After.
        backend: The name of the backend that answered.
    """

    target: str
    asked: float
    status: int
    retry_after: str | None
    backend: str | None


@dataclass(frozen=True)
class Site:
    """The two hosts.

    Attributes:
        engine: The host of Ray and of all processes of the instance.
        web: The host of gunicorn, without Ray.
        servers: The commands of both gunicorns, which run on `web`.
    """

    engine: Host
    web: Host
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def start_engine(self) -> None:
        """Start Ray and the instance, always with the same commands."""
        self.engine.start_ray("--head", "--port=6379", "--include-dashboard=false", environment=LOGGED_IN)
        status, printed = self.engine.command(
            *("start", "--name", "site", "--host", "0.0.0.0"),
            *("--listen", f"{self.engine.address}:7000", "--data-ports", "7001-7030"),
            *("--tls-cert", "/tmp/engine.crt", "--tls-key", "/tmp/engine.key", "--tls-ca", "/tmp/engine.ca"),
            environment=LOGGED_IN,
        )
        assert status == 0, printed

    def kill_engine(self) -> None:
        """Kill every process of the engine's host, Ray's own too."""

        def left() -> list[psutil.Process]:
            found = self.engine.processes("")
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            return found

        wait_until(lambda: not left(), LIMIT_S)

    def state(self) -> str:
        """Return all that users asked for, as the running instance tells it."""
        status, printed = self.engine.command("export", "--name", "site", environment=LOGGED_IN)
        assert status == 0, printed
        return printed

    def workers(self) -> list[int]:
        """Return the processes of both gunicorns."""
        return sorted(p.pid for server in self.servers for p in psutil.Process(server.pid).children(recursive=True))

    def answers(self) -> list[Answer]:
        """Return the answers to the visitor so far."""
        lines = self.web.path(ANSWERS).read_text().splitlines(keepends=True)
        return [Answer(*json.loads(line)) for line in lines if line.endswith("\n")]

    def wait_for_both_versions(self, after: float) -> None:
        """Wait until each target has answered with each version to a request from *after* that time."""
        wanted = {(target, version) for target in (*APPS, "proxy") for version in (V1, V2)}
        wait_until(lambda: wanted <= {(a.target, a.backend) for a in self.answers() if a.asked > after}, LIMIT_S)


def put(host: Host, source: str | Path, target: str) -> None:
    """Copy a file to *host*, for its user alone."""
    path = host.path(target)
    path.touch(mode=0o600)
    path.write_bytes(Path(source).read_bytes())


def put_tls(host: Host, files: Tls, targets: list[str]) -> None:
    """Copy the files for TLS to *host*."""
    for file, target in zip(files[:3], targets, strict=True):
        put(host, file, target)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An instance with the backends of the examples, and both examples under gunicorn, each with two variables."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(hosts())
        site = Site(switch.add("engine"), switch.add("web"))
        authority = trustme.CA()
        engine_files = make_tls(tmp_path, "engine", authority, "serve-bridge://site/engine")
        put_tls(site.engine, engine_files, [f"/tmp/engine.{kind}" for kind in ("crt", "key", "ca")])
        site.engine.path(RUNTIME_DIRECTORY).mkdir(parents=True, mode=0o700)
        site.start_engine()
        status, printed = site.engine.command(
            "deploy", "--name", "site", "examples.django_app.digits.backends", environment=LOGGED_IN
        )
        assert status == 0, printed
        site.engine.python(SETUP, environment=LOGGED_IN)
        key_file = site.engine.path("/root/.local/state/serve_bridge/site/site.forward.key")
        put(site.web, key_file, "/tmp/site.forward.key")
        put_tls(
            site.web,
            make_tls(tmp_path, "web", authority, "serve-bridge://site/forward"),
            [f"/tmp/site.{ending}" for ending in ENDINGS],
        )
        put_site(site.web)
        variables = {
            "SERVE_BRIDGE_ADDRESS": f"serve-bridge://{site.engine.address}:7000/site",
            "SERVE_BRIDGE_KEY_FILE": "/tmp/site.forward.key",
        }
        for port, app in APPS.values():
            server = site.web.start(
                *("env", "-C", SITE, sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"),
                *("--workers", "2", "--worker-class", "gthread", "--threads", "4", "--no-control-socket", app),
                environment=variables,
            )
            stack.callback(end, server)
            site.servers.append(server)
        wait_until(lambda: len(site.workers()) == 6, LIMIT_S)
        visitor = site.web.start_python(VISITOR, site.engine.address, "secret")
        stack.callback(end, visitor)
        wait_until(site.web.path(ANSWERS).exists, LIMIT_S)
        yield site


def put_site(web: Host) -> None:
    """Copy the examples to the host, prepare the database of Django, and hide Ray."""
    (ray,) = (find_spec("ray") or pytest.fail("Ray is missing")).submodule_search_locations or [""]
    web.succeed("mount", "-t", "tmpfs", "tmpfs", ray)
    no_caches = shutil.ignore_patterns("__pycache__", "*.sqlite3*")
    shutil.copytree(ROOT / "examples", web.path(f"{SITE}/examples"), ignore=no_caches)
    manage = (sys.executable, "-m", "examples.django_app.manage", "prepare", "--password", "secret")
    web.succeed("env", "-C", SITE, *manage)


def end(process: subprocess.Popen[str]) -> None:
    """Kill *process*; what it has started ends with its host."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def test_a_killed_cluster_that_starts_again_serves_the_examples_without_a_deployment(site: Site) -> None:
    """Endpoints, the split and the shadow are back, and the web workers are the same. Until then routes answer 503."""
    site.wait_for_both_versions(0.0)
    workers, state, seen = site.workers(), site.state(), site.engine.path(SEEN)
    assert seen.stat().st_size > 0
    site.kill_engine()
    killed = time.monotonic() + BROKEN_S
    wait_until(lambda: {a.target for a in site.answers() if a.asked > killed and a.status == 503} >= set(APPS), LIMIT_S)
    seen.unlink()
    site.start_engine()
    site.wait_for_both_versions(killed)
    wait_until(lambda: seen.exists() and seen.stat().st_size > 0, LIMIT_S)
    assert (site.workers(), site.state()) == (workers, state)
    of_apps = [a for a in site.answers() if a.asked > killed and a.target in APPS]
    of_proxy = [a for a in site.answers() if a.asked > killed and a.target == "proxy"]
    assert {a.status for a in of_apps} == {200, 503}
    assert {a.status for a in of_proxy} <= {0, 200, 503}
    assert [a for a in (*of_apps, *of_proxy) if a.status == 503 and not a.retry_after] == []
