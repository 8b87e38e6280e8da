"""The contract, over the adapter for Starlette."""

from __future__ import annotations

from serve_bridge.adapters import load_adapter
from serve_bridge.testing import AdapterContract
from tests.support.runtimes import LOCAL_ONLY

pytestmark = LOCAL_ONLY


class TestStarlette(AdapterContract):
    """Starlette."""

    adapter = load_adapter("starlette")
