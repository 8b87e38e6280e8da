"""The contract, over the adapter for ASGI, on both runtimes."""

from __future__ import annotations

from serve_bridge.adapters import load_adapter
from serve_bridge.testing import AdapterContract


class TestASGI(AdapterContract):
    """Any ASGI framework."""

    adapter = load_adapter("asgi")
