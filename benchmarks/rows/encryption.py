"""Row 11: calls from a process on another host: over TCP, and over TCP with TLS.

Rule 1: both instances listen on a loopback address. Their unix sockets are removed, so that the caller uses TCP.
Rule 2: the caller has the address over TCP, a key file and its own certificate, like a web host.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.contenders.bridge import noop
from benchmarks.contenders.contender import IN_FLIGHT, free_port
from benchmarks.contenders.entries import CALLERS
from benchmarks.contenders.stage import Stage
from benchmarks.load.calls import Kind
from benchmarks.trial import Trial

LOADS: Final[tuple[tuple[str, bool, Kind, int], ...]] = (
    ("tcp-call-1", False, "call", 1),
    ("tls-call-1", True, "call", 1),
    ("tcp-acall-64", False, "acall", 64),
    ("tls-acall-64", True, "acall", 64),
)
"""Point, whether it uses TLS, kind of the calls, and calls in flight."""
NAME: Final = "far"


def start(directory: str, port: int, encrypted: bool) -> None:
    """Start an instance with one replica, which is reached over TCP only. Its files are in *directory*."""
    import serve_bridge as serve
    from serve_bridge.client.client import link_of

    tls = _files(Path(directory)) if encrypted else {}
    client: Any = serve.start(
        name=NAME,
        listen=f"127.0.0.1:{port}",
        key_file=f"{directory}/secret",
        http_options={"location": "NoServer"},
        **tls,
    )
    config = serve.BackendConfig(max_concurrent_queries=IN_FLIGHT)
    client.create_backend("noop", noop, config=config, ray_actor_options={"num_cpus": 0})
    client.create_endpoint("noop", backend="noop")
    for path in Path(link_of(client).instance.directory).glob("*.sock"):
        path.unlink()


def _files(directory: Path) -> dict[str, Any]:
    """Write the certificate that both ends use; return the options of `start`."""
    import trustme

    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    files = {"cert": made.cert_chain_pems[0], "key": made.private_key_pem, "ca": authority.cert_pem}
    for name, content in files.items():
        path = directory / name
        path.touch(0o600)
        path.write_bytes(content.bytes())
    return {f"tls_{name}": str(directory / name) for name in files}


def measure(trial: Trial) -> None:
    """Measure both instances once."""
    for encrypted in trial.ordered([False, True]):
        loads = [load for load in LOADS if load[1] == encrypted and trial.wants(load[0])]
        if loads:
            with trial.attempt(loads[0][0]), TemporaryDirectory() as directory:
                _measure_instance(trial, directory, loads)


def _measure_instance(trial: Trial, directory: str, loads: list[tuple[str, bool, Kind, int]]) -> None:
    port, encrypted = free_port(), loads[0][1]
    trial.instances.arrange(start, directory=directory, port=port, encrypted=encrypted)
    environment = {
        "SERVE_BRIDGE_ADDRESS": f"serve-bridge://127.0.0.1:{port}/{NAME}",
        "SERVE_BRIDGE_KEY_FILE": f"{directory}/{NAME}.call.key",
    }
    if encrypted:
        environment |= {f"SERVE_BRIDGE_TLS_{name.upper()}": f"{directory}/{name}" for name in ("cert", "key", "ca")}
    caller = Stage(CALLERS["bridge-caller"], environment)
    try:
        for point, _, kind, count in loads:
            with trial.attempt(point):
                trial.load(
                    point,
                    lambda: trial.instances.serving_pids() | caller.serving_pids(),
                    partial(caller.load, kind, count),
                )
    finally:
        caller.stop()
