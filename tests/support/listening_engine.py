"""An engine that listens for web hosts on other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import serve_bridge as serve
from serve_bridge.client.client import link_of


def start_listening(name: str, keys: Path, port: int = 0, **options: Any) -> serve.Client:
    """Start an instance without a proxy that listens at *port*, or at a free one. Its key files are in *keys*."""
    return serve.start(
        runtime="local",
        name=name,
        listen=f"127.0.0.1:{port}",
        key_file=str(keys / "secret"),
        http_options={"location": "NoServer"},
        **options,
    )


def port_of(client: serve.Client) -> int:
    """Return the port at which the engine of *client* listens."""
    tcp = link_of(client).instance.controller.tcp
    assert tcp is not None
    return tcp[1]


def remove_sockets(client: serve.Client) -> None:
    """Remove the unix sockets of the engine, which another machine would not have; their listeners go on."""
    for path in Path(link_of(client).instance.directory).glob("*.sock"):
        path.unlink()
