"""For tests: instances as pytest fixtures, and the contract that every adapter has to pass. Shipped.

Rule 1: importing it loads neither a framework nor a server nor pytest: pytest loads the plugin in every run.
Rule 2: what runs in a replica, `backends`, can be imported there, so that all of it works on Ray too.
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
