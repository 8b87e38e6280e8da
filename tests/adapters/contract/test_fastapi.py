"""The contract, over the adapter for Starlette in an application of FastAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import FastAPI

from serve_bridge.adapters import Bridge, RouteSpec, load_adapter
from serve_bridge.testing import AdapterContract
from tests.support.runtimes import LOCAL_ONLY

pytestmark = LOCAL_ONLY


class _FastAPIAdapter:
    name = "fastapi"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> FastAPI:
        """Return an application with the routes that Starlette's would have."""
        app = FastAPI()
        starlette: Any = load_adapter("starlette").application(bridge, routes)
        app.router.routes.extend(starlette.routes)
        return app


class TestFastAPI(AdapterContract):
    """FastAPI, whose middleware and error handlers are its own."""

    adapter = _FastAPIAdapter()
