"""A process copies the listening socket of another process of its user, which knows nothing of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from textwrap import dedent

import pytest

from serve_bridge.instance.copied_listener import can_copy, copied_listener

LISTENER = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
input()
"""


@pytest.fixture
def port() -> Iterator[int]:
    """The port on which another process listens. Its title begins with the path of Python."""
    command = [sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def test_a_copy_keeps_the_port_open(port: int) -> None:
    """Connections wait in its queue, whether or not the first process accepts them."""
    copy = copied_listener(port, sys.executable)
    assert copy is not None
    with copy, socket.create_connection(("127.0.0.1", port)), copy.accept()[0] as accepted:
        assert accepted.getsockname() == ("127.0.0.1", port)
        assert not copy.get_inheritable()


def test_a_process_with_another_title_keeps_its_socket(port: int) -> None:
    """It is another program of the same user."""
    assert copied_listener(port, "ray::ProxyActor") is None


def test_a_port_without_a_listener_has_no_copy() -> None:
    """A connected socket with this port is not a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert copied_listener(bound.getsockname()[1], sys.executable) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop the right to trace")
def test_a_user_without_the_right_to_trace_can_copy_nothing(port: int) -> None:
    """The check of an upgrade says so before anything changes, with the remedies."""
    pytest.importorskip("ray", reason="only instances on Ray are upgraded")
    program = """
        import sys
        from serve_bridge.errors import ConfigError
        from serve_bridge.runtimes.ray import upgrade
        upgrade.PROXY_TITLE = sys.executable
        try:
            upgrade.check_copy(int(sys.argv[1]))
        except ConfigError as error:
            print(error)
    """
    command = [sys.executable, "-c", dedent(program), str(port)]
    weak = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    assert can_copy(port, sys.executable)
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout == ""
    refused = subprocess.run([*weak, *command], stdout=subprocess.PIPE, check=True, text=True).stdout
    assert f"port {port} would refuse connections" in refused
    for remedy in ("kernel.yama.ptrace_scope=0", "SYS_PTRACE", "--allow-closed-port"):
        assert remedy in refused


def test_a_port_without_a_listener_needs_no_copy() -> None:
    """Its proxy has ended, so nothing closes."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert can_copy(bound.getsockname()[1], sys.executable)
