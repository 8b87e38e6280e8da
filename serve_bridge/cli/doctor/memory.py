"""Memory: the use by replicas, and the limit of the engine's machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, error, warning
from serve_bridge.instance.process_facts import EngineFacts

CHECK: Final = "memory"
FULL_SHARE: Final = 0.9
"""Share of the memory above which the kernel or Ray may soon end a replica."""
DOUBLE_SHARE: Final = 0.5
"""Share above which old and new replicas do not fit at the same time."""


def check_memory(engine: EngineFacts) -> Iterator[Finding]:
    """Yield a finding if the replicas nearly fill the machine, or would during an update."""
    used, limit = engine.replicas_bytes, engine.memory_bytes
    if not used or not limit:
        return
    text = f"the replicas on {engine.host} use {_gib(used)} of {_gib(limit)} GiB"
    if used > FULL_SHARE * limit:
        yield error(
            CHECK,
            f"{text}. The kernel or Ray ends processes when memory runs out",
            "run fewer replicas, give Ray's option `memory` for each backend, or use a larger machine",
        )
    elif used > DOUBLE_SHARE * limit:
        yield warning(
            CHECK,
            f"{text}. An update starts new replicas before it ends the old ones, and both may not fit",
            "update with max_surge=0, which ends old replicas first, or use a larger machine",
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
