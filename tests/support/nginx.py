"""nginx as a process, in front of a server that a test has started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.listening import free_port, listening

__all__ = ["WEBSOCKET_BLOCK", "nginx"]

WEBSOCKET_BLOCK = """
    proxy_pass http://upstream_server;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
    proxy_set_header Host $host;
"""
"""What a location has by nginx's documentation so that WebSockets pass."""

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream upstream_server {{ server {upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""


@contextmanager
def nginx(directory: Path, upstream: str, locations: str) -> Iterator[tuple[str, int]]:
    """Run nginx in front of *upstream*; yield host and port where it listens.

    Args:
        directory: For its files; nothing outside of it is written.
        upstream: Host and port of the server, which `http://upstream_server` means in *locations*.
        locations: The location blocks of its one server.
    """
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("there is no nginx here; see SYSTEM_PACKAGES in the Makefile")
    port = free_port()
    file = directory / "nginx.conf"
    file.write_text(_CONFIGURATION.format(directory=directory, upstream=upstream, port=port, locations=locations))
    errors = directory / "error.log"
    command = [program, "-p", directory, "-c", file, "-e", errors]
    with listening(command, port, errors.read_text, directory / "start.log") as address:
        yield address
