"""The controller's contact with a process whose connection broke: whether it lives is asked where it listens."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
import trustme

from serve_bridge.controller.contact import Contact, host_answers
from serve_bridge.controller.tracked_proxy import TrackedProxy
from serve_bridge.wire import dialling
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frames import Frame
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.socket_files import bind_unix
from tests.support.certificates import make_tls

KEY = Key()


class Quiet:
    """A service that is asked for nothing."""

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Refuse."""
        stream.reject("not exposed")

    def load(self) -> int:
        """Return that nothing runs."""
        return 0


async def lives(id: str) -> bool:
    """Say that the process has not ended, as far as is known."""
    return False


async def has_regained(address: SocketAddress) -> bool:
    """Return whether there is a new connection to *address*."""
    connection = await Contact(KEY, "g", lives).reconnect(TrackedProxy("r", "node", "http://127.0.0.1", address))
    if connection is not None:
        connection.close()
    return connection is not None


@pytest.mark.parametrize("tcp_host", [None, "127.0.0.1"])
def test_a_process_that_listens_is_reached_again(tmp_path: Path, tcp_host: str | None) -> None:
    """Its connection may have broken for any reason."""

    async def check() -> bool:
        listener = Listener(Quiet(), KEY, "g", "r")
        address = await listener.listen(tmp_path / "sockets", tcp_host)
        try:
            return await has_regained(address)
        finally:
            listener.close()

    assert asyncio.run(check())


@pytest.mark.parametrize("tcp", [None, ("127.0.0.1", 1)])
def test_a_process_that_was_killed_is_known_to_have_ended(tmp_path: Path, tcp: tuple[str, int] | None) -> None:
    """Its socket is still there, and refuses."""
    path = str(tmp_path / "sockets" / "r.sock")
    bind_unix(path).close()
    assert not asyncio.run(has_regained(SocketAddress("r", path, tcp)))


def test_a_process_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host answers, so its silence counts."""
    monkeypatch.setattr(dialling, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = SocketAddress("r", "", hanging.getsockname())

        async def check() -> tuple[bool, bool]:
            return await host_answers(address), await has_regained(address)

        assert asyncio.run(check()) == (True, False)


def test_another_process_at_the_address_is_not_the_one(tmp_path: Path) -> None:
    """It may have the port of one that has ended."""

    async def check() -> bool:
        listener = Listener(Quiet(), KEY, "g", "another")
        address = await listener.listen(tmp_path / "sockets", "127.0.0.1")
        try:
            return await has_regained(SocketAddress("r", "", address.tcp))
        finally:
            listener.close()

    assert not asyncio.run(check())


def test_a_process_is_reached_again_once_the_certificate_is_renewed(tmp_path: Path) -> None:
    """An expired certificate does not mean that the process has ended."""
    authority = trustme.CA()
    tls = make_tls(tmp_path, "engine", authority, days=(-3, -1))
    key = KEY.with_tls(tls)
    asked = []

    async def lives(id: str) -> bool:
        asked.append(id)
        if len(asked) == dialling.TRIES + 1:
            make_tls(tmp_path, "engine", authority)
        return False

    async def check() -> None:
        listener = Listener(Quiet(), key, "g", "r")
        address = SocketAddress("r", "", (await listener.listen(tmp_path / "sockets", "127.0.0.1")).tcp)
        try:
            process = TrackedProxy("r", "node", "http://127.0.0.1", address)
            with pytest.raises(Lost, match="certificate has expired"):
                await Contact(key, "g", lives).connect(process)
            connection = await Contact(key, "g", lives).reconnect(process)
            assert connection is not None
            connection.close()
        finally:
            listener.close()

    asyncio.run(check())
    assert len(asked) == dialling.TRIES + 1
