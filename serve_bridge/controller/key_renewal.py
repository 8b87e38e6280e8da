"""The replacement of an instance's keys in all of its processes, without a stop.

Rule 1: the new keys are in the store before any process has them, so a restarted controller has them too.
Rule 2: a retired key ends at the controller first. Clients then read their key files again, before replicas refuse it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from serve_bridge.controller.proxies import OF_PROXIES, Proxies
from serve_bridge.controller.replica_launches import OF_REPLICAS
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.runtime import Store
from serve_bridge.errors import ConfigError
from serve_bridge.instance.known_instance import known_instance
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire.keys import Key
from serve_bridge.wire.listener import Listener

REREAD_S: Final = 1.0
"""Seconds for clients to read their key files again, after the controller has closed their connections."""
_STORED: Final = "keys"


class KeyRenewal:
    """The keys of one instance, which all parts of its controller share as one object."""

    def __init__(
        self,
        spec: InstanceSpec,
        key: Key,
        store: Store,
        listener: Listener,
        replicas: Replicas,
        proxies: Proxies,
        *,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        """*on_change* is called after *key* has changed, before other processes have the new keys."""
        self._spec = spec
        self._key = key
        self._store = store
        self._listener = listener
        self._replicas = replicas
        self._proxies = proxies
        self._on_change = on_change

    async def restore(self) -> None:
        """Take over the keys of a former controller."""
        stored = await self._store.get(_STORED)
        if stored is not None:
            self._key.replace(Key.of_text(stored.decode()))

    async def renew(self, text: str) -> None:
        """Use the keys in *text* from now on, in all processes. Connections with a retired key end.

        Raises:
            ConfigError: None of these keys is one of the instance.
        """
        key = Key.of_text(text)
        kept = [each for each in self._key.each if key.with_id(each.id) is not None]
        if not kept:
            raise ConfigError(f"these keys are not those of instance {self._spec.name!r}; nothing was changed")
        retires = len(kept) < len(self._key.each)
        await self._store.put(_STORED, text.encode())
        self._key.replace(key)
        known_instance(self._spec.generation).renew_keys(key)
        await self._on_change()
        if retires:
            self._listener.end_stale()
            await asyncio.sleep(REREAD_S)
        await asyncio.gather(
            self._replicas.renew_keys(key.only(*OF_REPLICAS).text), self._proxies.renew_keys(key.only(*OF_PROXIES).text)
        )
