"""The contract of fronts: a file a front, so that the workers of a run share them.

A front sees sockets and never the runtime. So on Ray the contract runs for the proxy, an ASGI and a WSGI adapter only.
"""

from __future__ import annotations

import pytest

import serve_bridge as serve
from serve_bridge.testing.contract import deploy_subject


@pytest.fixture(scope="module")
def serve_bridge_contract(client: serve.Client) -> serve.Client:
    """The module's instance, of each runtime in turn."""
    deploy_subject(client)
    return client
