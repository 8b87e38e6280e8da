"""The adapter keeps the contract."""

from serve_bridge.adapters import load_adapter
from serve_bridge.testing import AdapterContract


class TestBottle(AdapterContract):
    """Everything that holds for a forwarded route."""

    adapter = load_adapter("bottle")
