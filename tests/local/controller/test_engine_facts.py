"""The facts about the engine that `serve-bridge doctor` asks for."""

from __future__ import annotations

import asyncio
import platform
import time

import pytest

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.controller.engine_facts import engine_facts
from serve_bridge.instance.operations import Operation
from serve_bridge.instance.process_facts import EngineFacts
from serve_bridge.runtimes.local import LocalRuntime


@pytest.fixture(scope="module")
def runtime() -> str:
    """The facts of this process are known."""
    return "local"


def test_the_facts_are_those_of_the_controllers_process() -> None:
    """In the local runtime, that is this process, which has the replicas too."""
    facts = EngineFacts.from_dict(asyncio.run(engine_facts(LocalRuntime(lambda: None))))
    assert facts.python == platform.python_version()
    assert facts.versions["serve-bridge"] == serve.__version__
    assert facts.token_mode == ""
    assert facts.replicas_bytes
    assert facts.memory_bytes


def test_an_operator_gets_the_facts(client: serve.Client) -> None:
    """With the clock at the time of the answer."""
    before = time.time()
    facts = EngineFacts.from_dict(link_of(client).operate(Operation.DIAGNOSE))
    assert before <= facts.time <= time.time()
