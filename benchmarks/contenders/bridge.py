"""serve_bridge as a contender: the instance, and the calling process without Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks import BODY
from benchmarks.contenders import sites as answers
from benchmarks.contenders.contender import IN_FLIGHT, Caller, Contender, OnRay
from benchmarks.load.calls import Calls

ENDPOINT: Final = "SERVE_BRIDGE_BENCHMARK_ENDPOINT"


async def noop(request: object) -> bytes:
    """Answer at once: the backend of most measurements of serve_bridge."""
    return BODY


async def sites(request: Any) -> Any:
    """Answer with the handler of `sites` at the path of the request."""
    path = request.scope["path"][1:]
    return await (answers.websocket if path == "websocket" else answers.SITES[path])(request)


class Bridge(OnRay):
    """serve_bridge on Ray: its proxy for HTTP, and `handle.remote` from the process that started it."""

    def start(self, directory: Path) -> None:
        """Start a cluster, an instance, and one replica each of `noop` and `sites`."""
        import ray

        import serve_bridge as serve

        super().start(directory)
        client: Any = serve.start(http_options={"port": 0, "max_body_bytes": 2 << 30})
        serve.create_backend("noop", noop, config={"max_concurrent_queries": IN_FLIGHT})
        serve.create_endpoint("noop", backend="noop", route="/noop", methods=["GET", "POST"])
        serve.create_backend("sites", sites, config={"max_concurrent_queries": IN_FLIGHT})
        for name in (*answers.SITES, "websocket"):
            serve.create_endpoint(name, backend="sites", route=f"/{name}", methods=["GET", "POST"])
        handle: Any = serve.get_handle("noop")
        self.url = client.http_urls[0].rstrip("/") + "/noop"
        self.calls = Calls(remote=lambda count: ray.get([handle.remote(1) for _ in range(count)]))
        self.caller = Caller("bridge-caller", {"SERVE_BRIDGE_ADDRESS": client.address})


class BridgeCaller(Contender):
    """A caller like a web worker: a process without Ray, with calls over the data plane.

    Raises:
        RuntimeError: Connecting imported Ray, so the figures would not hold for a process without Ray.
    """

    def start(self, directory: Path) -> None:
        """Connect to the instance at `SERVE_BRIDGE_ADDRESS`, and get a handle of the endpoint in `ENDPOINT`."""
        import serve_bridge as serve

        serve.connect(os.environ["SERVE_BRIDGE_ADDRESS"])
        handle: Any = serve.get_handle(os.environ.get(ENDPOINT, "noop"))
        handle.call(1)
        if "ray" in sys.modules:
            raise RuntimeError("the calling process imported Ray")
        self.calls = Calls(call=lambda: handle.call(1), acall=lambda: handle.acall(1))
