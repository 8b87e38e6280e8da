"""The contract, over the adapter for Flask."""

from __future__ import annotations

from serve_bridge.adapters import load_adapter
from serve_bridge.testing import AdapterContract
from tests.support.runtimes import LOCAL_ONLY

pytestmark = LOCAL_ONLY


class TestFlask(AdapterContract):
    """Flask."""

    adapter = load_adapter("flask")
    request_method = "request.method"
