"""The contract, over the adapter for Django under ASGI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from serve_bridge.adapters import load_adapter
from serve_bridge.testing import AdapterContract
from tests.support.runtimes import LOCAL_ONLY

pytestmark = LOCAL_ONLY
SPOOLED = "Django has received all of a body before it calls a view"


class TestAsyncDjango(AdapterContract):
    """Django under ASGI."""

    adapter = load_adapter("django-asgi")
    lacks: ClassVar[Mapping[str, str]] = {
        "streamed uploads": SPOOLED,
        "duplex": SPOOLED,
        "early answers": SPOOLED,
        "websockets": "Django answers HTTP only; serve_bridge.adapters.django.asgi wraps it for more",
    }
