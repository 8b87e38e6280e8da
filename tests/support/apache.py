"""Apache's httpd as a process, in front of a server that a test has started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.listening import free_port, listening

__all__ = ["apache"]

_CONFIGURATION = """
ServerRoot {directory}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {directory}/apache.pid
Mutex file:{directory}
DefaultRuntimeDir {directory}
ErrorLog {directory}/error.log
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
StartServers 1
ProxyPass / http://{upstream}/
"""


@contextmanager
def apache(directory: Path, upstream: str) -> Iterator[tuple[str, int]]:
    """Run httpd with mod_proxy in front of *upstream*, host and port; yield host and port where it listens."""
    program = shutil.which("apache2", path="/usr/sbin:/usr/bin")
    modules = Path("/usr/lib/apache2/modules")
    if program is None or not modules.is_dir():
        pytest.skip("there is no Apache here; see SYSTEM_PACKAGES in the Makefile")
    port = free_port()
    file = directory / "apache.conf"
    file.write_text(_CONFIGURATION.format(directory=directory, upstream=upstream, port=port, modules=modules))
    log = directory / "start.log"
    with listening([program, "-D", "FOREGROUND", "-f", file], port, log.read_text, log) as address:
        yield address
