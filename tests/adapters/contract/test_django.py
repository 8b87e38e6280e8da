"""The contract, over the adapter for Django under WSGI."""

from __future__ import annotations

from serve_bridge.adapters import load_adapter
from serve_bridge.testing import AdapterContract
from tests.support.runtimes import LOCAL_ONLY

pytestmark = LOCAL_ONLY


class TestDjango(AdapterContract):
    """Django under WSGI."""

    adapter = load_adapter("django")
