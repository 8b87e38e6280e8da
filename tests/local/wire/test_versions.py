"""Processes of different versions of serve_bridge: both sides say so, at once."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import serve_bridge as serve
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance import Instance
from serve_bridge.wire.handshake import HELLO_BYTES, OLDEST, VERSION, Handshake, identity
from serve_bridge.wire.keys import Role
from serve_bridge.wire.socket_files import bind_unix

BOTH_VERSIONS = rf"version {VERSION + 1} .*versions {OLDEST} to {VERSION}; install the same version"


def hello(instance: Instance) -> bytes:
    """Return the first words of a caller of the next version."""
    ours = Handshake(instance.key, Role.PYTHON, identity(instance.generation, "controller"), caller=True).start()
    return ours[:7] + bytes([VERSION + 1]) + ours[8:9] + bytes(1) + ours[10:]


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance of this version."""
    client = serve.start(runtime="local", name="versions", http_options={"host": None})
    yield client
    client.shutdown()


@pytest.fixture
def newer(client: serve.Client, tmp_path: Path) -> Iterator[str]:
    """The address of an instance whose controller answers as one of the next version does."""
    instance = instances.find(client.address, "")
    path = str(tmp_path / "s" / "controller.sock")
    listening = bind_unix(path)
    listening.setblocking(True)
    listening.listen()

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # one that only looks whether a process listens
                connection.recv(HELLO_BYTES)
                connection.sendall(hello(instance))

    thread = threading.Thread(target=answer)
    thread.start()
    copy = tmp_path / "instance.json"
    copy.touch(0o600)
    elsewhere = msgspec.structs.replace(instance.controller, unix=path)
    copy.write_bytes(msgspec.json.encode(msgspec.structs.replace(instance, generation="another", controller=elsewhere)))
    yield str(copy)
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def test_an_operation_names_both_versions(newer: str) -> None:
    """And says what to do."""
    joined = serve.connect(newer)
    for _ in range(2):
        with pytest.raises(serve.NotConnected, match=BOTH_VERSIONS):
            joined.list_backends()
    joined.close()


def test_a_call_names_both_versions(newer: str) -> None:
    """A web worker's request does not wait for another answer."""
    joined = serve.connect(newer)
    handle = joined.get_handle("e", missing_ok=True)
    for _ in range(20):  # each in vain; waiting for each would take longer than a test may
        with pytest.raises(serve.NotConnected, match=BOTH_VERSIONS):
            handle.call()
    joined.close()


def test_the_controller_answers_and_logs_both_versions(client: serve.Client, caplog: pytest.LogCaptureFixture) -> None:
    """A caller of the next version can name them, too."""
    instance = instances.find(client.address, "")
    with socket.socket(socket.AF_UNIX) as caller, caplog.at_level(logging.WARNING, "serve_bridge.wire"):
        caller.connect(instance.controller.unix)
        caller.sendall(hello(instance))
        said = b"".join(iter(lambda: caller.recv(4096), b""))
    assert (len(said), said[7]) == (HELLO_BYTES, OLDEST)
    assert "install the same version" in caplog.text
