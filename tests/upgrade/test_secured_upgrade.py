"""An upgrade of an instance with TLS, whose callers have key files of the roles call and forward."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

import serve_bridge as serve
from tests.e2e.support.web_servers import WebServer, gunicorn
from tests.faults.support.backends import Recorder
from tests.faults.support.load import Load
from tests.faults.support.oracle import Run, summary, violations
from tests.support.certificates import make_tls
from tests.support.listening import free_port
from tests.upgrade.support.engine import Engine

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(600)]

NAME = "secured-upgrade"
WORKERS = gunicorn("tests.e2e.support.apps.flask_app:app", "--worker-class", "gthread", "--threads", "4")


def test_an_instance_with_tls_and_key_files_is_replaced_under_load(ray_cluster: Any, tmp_path: Path) -> None:
    """Callers of both roles stay connected over TLS, or connect again, and their keys stay valid."""
    journal, keys = tmp_path / "journal", tmp_path / "keys"
    keys.mkdir(0o700)
    tls = make_tls(tmp_path, "engine", trustme.CA())
    ray_address = str(ray_cluster.get_runtime_context().gcs_address)
    listen = f"127.0.0.1:{free_port()}"
    client = serve.start(
        name=NAME,
        address=ray_address,
        detached=True,
        listen=listen,
        key_file=str(keys / "secret"),
        state=tmp_path / "state",
        http_options={"port": 0},
        tls_cert=tls.cert,
        tls_key=tls.key,
        tls_ca=tls.ca,
    )
    try:
        client.create_backend("transfer", Recorder, str(journal), config={"num_replicas": 2})
        client.create_endpoint("transfer", backend="transfer", route="/transfer", methods=["GET", "POST"])
        before = client.status()
        engine = Engine(f"serve-bridge://{listen}/{NAME}", client.http_urls, serve.__version__)
        common = {
            "SERVE_BRIDGE_ADDRESS": engine.address,
            "SERVE_BRIDGE_TLS_CERT": tls.cert,
            "SERVE_BRIDGE_TLS_KEY": tls.key,
            "SERVE_BRIDGE_TLS_CA": tls.ca,
        }
        caller = {**common, "SERVE_BRIDGE_KEY_FILE": str(keys / f"{NAME}.call.key")}
        worker = {**common, "SERVE_BRIDGE_KEY_FILE": str(keys / f"{NAME}.forward.key")}
        given = {path: path.read_bytes() for path in keys.iterdir()}
        with WebServer(WORKERS, tmp_path / "log", environment=worker) as server:
            workers = server.ready()
            site = replace(engine, http_urls=[server.url])
            ways = ("get-anew", "post-anew")
            calls = Load(engine, "transfer", tmp_path / "calls", rate=60, environment=caller)
            forwarded = Load(site, "transfer", tmp_path / "forwarded", rate=30, ways=ways, environment=caller)
            with calls, forwarded:
                calls.wait_for_more(50)
                command = [sys.executable, "-m", "serve_bridge", "upgrade", "--name", NAME]
                done = subprocess.run(
                    [*command, "--ray-address", ray_address],
                    env=dict(os.environ),
                    capture_output=True,
                    text=True,
                    timeout=300,
                    check=False,
                )
                calls.wait_for_more(50)
                forwarded.wait_for_more(50)
            assert server.ready().keys() == workers.keys()
        assert done.returncode == 0, done.stderr
        result = Run.read(journal, calls.log, forwarded.log)
        assert violations(result) == {}
        assert result.failed() == [], summary(result.outcomes)
        old, new = (status["backends"]["transfer"]["replicas"] for status in (before, client.status()))
        assert (len(new), new.keys() & old.keys()) == (2, set())
        assert {path: path.read_bytes() for path in keys.iterdir()} == given
    finally:
        client.shutdown()
