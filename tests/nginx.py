"""nginx as a process, in front of a server that a test has started."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.waiting import wait_until

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
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    file = directory / "nginx.conf"
    file.write_text(_CONFIGURATION.format(directory=directory, upstream=upstream, port=port, locations=locations))
    process = subprocess.Popen([program, "-p", directory, "-c", file, "-e", directory / "error.log"])
    address = ("127.0.0.1", port)
    try:
        wait_until(lambda: process.poll() is not None or _is_listening(address))
        assert process.poll() is None, (directory / "error.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait()


def _is_listening(address: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=1):
        return True
    return False
