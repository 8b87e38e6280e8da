"""Tools for tests: instances as pytest fixtures, and the contract of adapters. Users of serve_bridge may use both.

Rule 1: the import loads no framework, no server and no pytest, because pytest loads the plugin in every run.
Rule 2: replicas can import the backend of the contract, `subject`, so the contract works on Ray too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_bridge.testing.contract import AdapterContract, FrontContract

__all__ = ["AdapterContract", "FrontContract"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve_bridge.testing import contract  # late: rule 1

    return getattr(contract, name)
