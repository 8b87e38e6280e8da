"""How the controller connects to the replicas and proxies of its instance, and connects again.

Rule 1: a broken connection does not mean that a process has ended. The controller dials the process again until it
    answers, or has certainly ended.
Rule 2: while the host of a process cannot be reached, silence says nothing about the process. It counts once the host
    answers.
Rule 3: no decision here waits for Ray's control plane. It is asked only whether a process has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from serve_bridge.controller.tracked_process import TrackedProcess
from serve_bridge.errors import AuthenticationError
from serve_bridge.process.backoff import Backoff
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import CONNECT_TIMEOUT_S, TRIES, NoListener, dial, dial_running, places_of
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.handshake import TlsRefused
from serve_bridge.wire.keys import Key

REDIAL: Final = Backoff(shortest_s=0.05, longest_s=1.0)
"""Waits between the tries to connect to a process again."""


class Contact:
    """Connects to the processes of one instance."""

    def __init__(self, key: Key, generation: str, has_ended: Callable[[str], Awaitable[bool]]) -> None:
        """*has_ended* returns whether the process of an id has certainly ended."""
        self._key = key
        self._generation = generation
        self._has_ended = has_ended

    async def connect(self, process: TrackedProcess) -> CallerConnection:
        """Return a first connection to *process*, which has just been seen running.

        Raises:
            Lost: No process answers, or an end does not accept the other end's certificate. It is `NoListener` if the
                process has ended.
            AuthenticationError: Another process answers at the address.
        """
        assert process.address is not None
        try:
            return await dial_running(process.address, self._key, self._generation, process.role)
        except TlsRefused as error:  # a certificate that has expired says nothing about the process
            raise Lost("no", str(error)) from None

    async def reconnect(self, process: TrackedProcess) -> CallerConnection | None:
        """Return a new connection to *process*, whose connection broke; None once it has ended, or hangs.

        This takes as long as the host cannot be reached and the process is not known to have ended.
        """
        assert process.address is not None
        unanswered = 0
        for wait_s in REDIAL.waits_s():
            try:
                return await dial(process.address, self._key, self._generation, process.role)
            except TlsRefused:  # a certificate that has expired says nothing about the process
                if await self._has_ended(process.id):
                    return None
            except (NoListener, AuthenticationError):
                return None
            except Lost:
                if await host_answers(process.address):
                    unanswered += 1
                elif await self._has_ended(process.id):
                    return None
            if unanswered >= TRIES:
                break
            await asyncio.sleep(wait_s)
        return None


async def host_answers(address: SocketAddress) -> bool:
    """Return whether the host of *address* can be reached; the process there may have ended."""
    try:
        place = places_of(address)[-1]
    except NoListener:
        return True  # the address has only a unix socket, so its host is this one
    if isinstance(place, str):
        return True
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            transport, _ = await loop.create_connection(asyncio.Protocol, *place)
    except ConnectionRefusedError:
        return True
    except OSError:  # a TimeoutError is one too
        return False
    transport.abort()
    return True
