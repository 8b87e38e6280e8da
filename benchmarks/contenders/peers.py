"""The contenders on Ray itself: Ray Serve in two modes, and calls of a raw actor, which any design on actors uses.

Rule 1: each contender runs as its own documentation advises: no CPU reserved, no access log, no limit below the load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray import serve

from benchmarks import BODY
from benchmarks.contenders import sites
from benchmarks.contenders.contender import IN_FLIGHT, Contender, free_port, start_ray
from benchmarks.load.calls import Calls


class Noop:
    """The handler for Ray Serve and for a raw async actor."""

    async def __call__(self, request: object) -> bytes:
        """Answer at once."""
        return BODY


class BlockingNoop:
    """The handler for a raw sync actor."""

    def __call__(self, request: object) -> bytes:
        """Answer at once."""
        return BODY


class Sites:
    """The application of `sites` in Ray Serve, which serves WebSockets only through an ASGI application."""


class RayServe(Contender):
    """Ray Serve with its defaults: its proxy for HTTP, its handle for a sync and an async caller."""

    def start(self, directory: Path) -> None:
        """Start Ray, Ray Serve, and one replica each of the no-op and the application."""
        start_ray(directory)
        port = free_port()
        quiet = {"enable_access_log": False}
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
        options: dict[str, Any] = {
            "max_ongoing_requests": IN_FLIGHT,
            "ray_actor_options": {"num_cpus": 0},
            "logging_config": quiet,
        }
        deployment: Any = serve.deployment(**options)(Noop)
        handle = serve.run(deployment.bind(), name="noop", route_prefix="/noop")
        application: Any = serve.deployment(**options)(serve.ingress(sites.application())(Sites))
        serve.run(application.bind(), name="sites", route_prefix="/")
        self.url = f"http://127.0.0.1:{port}/noop"
        self.calls = self._handle_calls(handle)

    def _handle_calls(self, handle: Any) -> Calls:
        def pipelined(count: int) -> None:
            for response in [handle.remote(1) for _ in range(count)]:
                response.result()

        async def acall() -> object:
            return await handle.remote(1)

        return Calls(call=lambda: handle.remote(1).result(), acall=acall, remote=pipelined)

    def stop(self) -> None:
        """End the cluster with Ray Serve. Ray Serve's own shutdown takes half a minute even without requests."""
        ray.shutdown()


class RayServeFast(RayServe):
    """Ray Serve in its fastest mode. The environment of the stage holds the switches."""

    def _handle_calls(self, handle: Any) -> Calls:
        # In this mode a handle works only inside a running loop, so a sync view cannot use it.
        return Calls(acall=super()._handle_calls(handle).acall)


class AsyncActor(Contender):
    """`ray.get(actor.method.remote(x))` for an actor with an `async def` method."""

    handler: type[Any] = Noop
    concurrency: int | None = IN_FLIGHT

    def start(self, directory: Path) -> None:
        """Start Ray and the actor, and wait until it answers."""
        start_ray(directory)
        options: dict[str, Any] = {"num_cpus": 0}
        if self.concurrency is not None:
            options["max_concurrency"] = self.concurrency
        remote_class: Any = ray.remote(**options)(self.handler)
        method = remote_class.remote().__call__
        ray.get(method.remote(1))

        async def acall() -> object:
            return await method.remote(1)

        self.calls = Calls(
            call=lambda: ray.get(method.remote(1)),
            acall=acall,
            remote=lambda count: ray.get([method.remote(1) for _ in range(count)]),
        )

    def stop(self) -> None:
        """End the cluster."""
        ray.shutdown()


class SyncActor(AsyncActor):
    """An actor with a `def` method. It runs one call at a time, which is Ray's default."""

    handler = BlockingNoop
    concurrency = None
