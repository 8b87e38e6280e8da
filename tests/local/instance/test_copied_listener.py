"""A process copies the listening socket of another process of its user, which knows nothing of it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serve_bridge.instance.copied_listener import copied_listener

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
