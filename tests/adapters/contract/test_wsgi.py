"""The contract, over the adapter for WSGI, on both runtimes."""

from __future__ import annotations

from serve_bridge.adapters import load_adapter
from serve_bridge.testing import AdapterContract


class TestWSGI(AdapterContract):
    """Any WSGI framework."""

    adapter = load_adapter("wsgi")
    request_method = "environ.REQUEST_METHOD"
