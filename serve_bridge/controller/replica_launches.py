"""Starts replicas: plans them, launches their processes, and waits until user code is ready."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable
from typing import Final

from serve_bridge.controller.health_probes import check_first
from serve_bridge.controller.lifecycle import ReplicaState
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.tracked_replica import SERVING, TrackedReplica
from serve_bridge.errors import AuthenticationError, BackendStartError, ConfigError
from serve_bridge.instance.instance import Instance
from serve_bridge.specs import BackendSpec, InstanceSpec, ReplicaSpec
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.keys import Key, Role

OF_REPLICAS: Final = (Role.EDGE, Role.PYTHON, Role.CALL, Role.FORWARD)
"""The roles whose callers a replica serves, so it has their keys."""


class ReplicaLaunches:
    """Starts the replicas of one instance."""

    def __init__(self, spec: InstanceSpec, key: Key, runtime: Runtime, replicas: Replicas) -> None:
        self._spec = spec
        self._key = key
        self._runtime = runtime
        self._replicas = replicas
        self._instance: Instance | None = None

    def begin(self, instance: Instance) -> None:
        """Allow launches. The replicas get *instance*, with the keys of their roles only."""
        self._instance = instance.only(*OF_REPLICAS)

    def plan(self, backend: BackendSpec, count: int) -> list[TrackedReplica]:
        """Return *count* replicas to launch. Their ids can be checkpointed before a process starts."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", backend.name)[:20]
        planned = []
        for _ in range(count):
            replica = TrackedReplica(f"{name}-{secrets.token_hex(3)}", backend.name, backend.revision, backend.resolved)
            self._replicas.add(replica)
            planned.append(replica)
        return planned

    async def launch(self, backend: BackendSpec, planned: list[TrackedReplica], *, all_or_none: bool = True) -> None:
        """Start the *planned* replicas and wait until they are ready. No router has them yet.

        Args:
            backend: Their backend.
            planned: The result of `plan`.
            all_or_none: Whether one failed start ends the other replicas too.

        Raises:
            BackendStartError: A replica could not start in time; nothing of it is left.
        """
        starting = [asyncio.create_task(self._launch(backend, replica)) for replica in planned]
        try:
            await asyncio.wait(starting, return_when=asyncio.FIRST_EXCEPTION if all_or_none else asyncio.ALL_COMPLETED)
        except asyncio.CancelledError:
            await _cancelled(starting)
            await self._replicas.abandon(planned)
            raise
        errors = [error for task in starting if task.done() and (error := task.exception())]
        if errors:
            await _cancelled(starting)
            lost = [r for r, task in zip(planned, starting, strict=True) if all_or_none or task.exception()]
            await self._replicas.abandon(lost)
            raise errors[0]

    async def _launch(self, backend: BackendSpec, replica: TrackedReplica) -> None:
        config = backend.resolved
        options = backend.actor_options.open()
        key = self._key.only(*OF_REPLICAS)
        try:
            async with asyncio.timeout(config.start_timeout_s):
                replica.address = await self._runtime.launch_replica(self._replica_spec(backend, replica), key, options)
                await self._replicas.connect(replica)
                await check_first(replica)
                if replica.state is ReplicaState.STOPPED:  # in the turn of the loop that brought the answer
                    raise Lost("unknown", "its connection was lost")
        except (BackendStartError, ConfigError):
            raise
        except TimeoutError:
            why = f"it was not ready within start_timeout_s={config.start_timeout_s:g}"
            if wait := await self._runtime.explain_wait(replica.id, options):
                why = f"{why}; {wait}"
                if any(r.revision != backend.revision for r in self._replicas.of(backend.name, *SERVING)):
                    why = (
                        f"{why}; an update needs room for the new replicas beside the old ones, which still serve; "
                        "with max_surge=0 and max_unavailable=1 it replaces one replica after another"
                    )
            raise BackendStartError(backend.name, why) from None
        except (Lost, AuthenticationError) as error:
            raise BackendStartError(backend.name, f"its process ended while it started: {error}") from None
        except Exception as error:  # any error of the runtime
            why = f"its process could not be started: {type(error).__name__}: {error}"
            raise BackendStartError(backend.name, why) from error
        self._replicas.watch(replica)

    def _replica_spec(self, backend: BackendSpec, replica: TrackedReplica) -> ReplicaSpec:
        assert self._instance is not None
        return ReplicaSpec(
            replica=replica.id,
            backend=backend.name,
            instance=self._instance,
            directory=self._spec.directory,
            tcp_host=self._spec.tcp_host,
            code=backend.code,
            config=replica.config,
            network=self._spec.network,
        )


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel *tasks* and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
