"""Tokens: whether Ray asks each process for the token of the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, warning
from serve_bridge.instance.process_facts import EngineFacts

CHECK: Final = "tokens"


def check_tokens(engine: EngineFacts, *, has_token: bool, shares_machine: bool) -> Iterator[Finding]:
    """Yield a finding if Ray accepts all processes, or if a web host has the token without need.

    Args:
        engine: The engine.
        has_token: Whether this process has the token of the cluster.
        shares_machine: Whether this process runs on the engine's machine.
    """
    if engine.token_mode == "disabled":
        yield warning(
            CHECK,
            "Ray does not ask for a token, so each process that reaches its ports can run code in the cluster",
            "start Ray with RAY_AUTH_MODE=token and a token of at least 32 random bytes in RAY_AUTH_TOKEN_PATH",
        )
    if engine.token_mode and has_token and not shares_machine:
        yield warning(
            CHECK,
            "this process has the token of the Ray cluster, with which it can run code there",
            "remove RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token from web hosts; serve_bridge needs a key "
            "file only",
        )
