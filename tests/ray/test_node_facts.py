"""The facts about a node of Ray that `serve-bridge doctor` shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.instance.operations import Operation
from serve_bridge.instance.process_facts import EngineFacts
from serve_bridge.runtimes.ray.node_facts import replicas_bytes

HELD_BYTES = 200 << 20


@pytest.fixture(scope="module")
def runtime() -> str:
    """Only Ray has processes of its own."""
    return "ray"


def test_only_replicas_of_the_same_raylet_count(tmp_path: Path) -> None:
    """By their titles and their parent."""
    parent = os.getppid()
    for number, title, father in (
        (1, "ray::ReplicaActor", parent),
        (2, "ray::ReplicaActor.call", parent),
        (3, "ray::ProxyActor", parent),
        (4, "ray::ReplicaActor", parent + 1),
    ):
        process = tmp_path / str(number)
        process.mkdir()
        (process / "cmdline").write_bytes(title.encode() + b"\0")
        (process / "stat").write_text(f"{number} (ray (x) y) S {father} 1 1")
        (process / "statm").write_text("9 7 2 1 0 1 0")
    (tmp_path / "5").mkdir()  # it has ended
    (tmp_path / "self").mkdir()
    assert replicas_bytes(tmp_path) == 10 * os.sysconf("SC_PAGESIZE")


def test_the_memory_of_replicas_is_known(client: serve.Client) -> None:
    """Of their processes, which the controller's machine has; and whether Ray asks for a token."""

    class Large:
        def __init__(self) -> None:
            self.held = b"1" * HELD_BYTES

        def __call__(self, request: object) -> None:
            """Do nothing."""

    def asked() -> EngineFacts:
        return EngineFacts.from_dict(link_of(client).operate(Operation.DIAGNOSE))

    client.create_backend("large", Large)
    used = asked().replicas_bytes
    client.delete_backend("large")
    assert used is not None
    assert HELD_BYTES <= used < 100 * HELD_BYTES
    assert asked().token_mode in ("token", "disabled")
