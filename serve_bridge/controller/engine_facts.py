"""The facts about the engine, for `serve-bridge doctor`."""

from __future__ import annotations

from typing import Any

from serve_bridge.controller.runtime import Runtime
from serve_bridge.instance.process_facts import EngineFacts, own_facts
from serve_bridge.process.engine_threads import on_engine_thread


async def engine_facts(runtime: Runtime) -> dict[str, Any]:
    """Return the facts about the process of the controller and its *runtime* as plain values; see `EngineFacts`."""
    token_mode, replicas_bytes = await runtime.token_mode(), await runtime.replicas_bytes()
    own = await on_engine_thread(own_facts)  # the last one, since it reads the clock
    return EngineFacts(token_mode=token_mode, replicas_bytes=replicas_bytes, **own).as_dict()
