"""The keeper of a port, and copies of the listening socket that it holds."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_bridge.errors import AuthenticationError
from serve_bridge.instance import port_keeper
from serve_bridge.instance.port_keeper import PortKeeper
from tests.support.programs import run_program


def listening() -> socket.socket:
    """Return a socket that listens on a free port of this machine."""
    return socket.create_server(("127.0.0.1", 0))


def port_of(listener: socket.socket) -> int:
    """Return the port of *listener*."""
    return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    """Return whether *port* is open."""
    try:
        socket.create_connection(("127.0.0.1", port), 5.0).close()
    except ConnectionRefusedError:
        return False
    return True


def kept(work: Callable[[PortKeeper, Path], None], path: Path) -> None:
    """Run *work* beside a keeper at *path*, on another thread than the keeper's loop."""

    async def run() -> None:
        keeper = PortKeeper(path)
        keeper.open()
        try:
            await asyncio.to_thread(work, keeper, path)
        finally:
            keeper.close()

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a keeper's unix socket, in a directory of this user alone."""
    tmp_path.chmod(0o700)
    return port_keeper.socket_path(tmp_path, "node")


def test_a_new_keeper_has_no_socket(path: Path) -> None:
    """So the first proxy binds the port."""

    def work(_: PortKeeper, path: Path) -> None:
        assert port_keeper.take(path) is None

    kept(work, path)


def test_a_connection_waits_in_the_queue_while_no_proxy_runs(path: Path) -> None:
    """The next proxy accepts it, with its copy of the same socket."""

    def work(_: PortKeeper, path: Path) -> None:
        first = listening()
        assert port_keeper.give(path, first)
        port = port_of(first)
        first.close()
        with socket.create_connection(("127.0.0.1", port), 5.0) as client:
            client.sendall(b"early")
            taken = port_keeper.take(path)
            assert taken is not None
            with taken:
                taken.setblocking(True)
                accepted, _ = taken.accept()
                with accepted:
                    assert accepted.recv(5) == b"early"

    kept(work, path)


def test_a_copy_stays_with_its_process(path: Path) -> None:
    """A program that this process starts does not inherit the port."""

    def work(_: PortKeeper, path: Path) -> None:
        with listening() as first:
            port_keeper.give(path, first)
            taken = port_keeper.take(path)
            assert taken is not None
            with taken:
                assert not taken.get_inheritable()

    kept(work, path)


def test_a_keeper_keeps_the_first_socket(path: Path) -> None:
    """Two proxies that bind two ports do not share one; the second one's socket is dropped."""

    def work(_: PortKeeper, path: Path) -> None:
        with listening() as first, listening() as second:
            assert port_keeper.give(path, first)
            assert port_keeper.give(path, second)
            taken = port_keeper.take(path)
            assert taken is not None
            with taken:
                assert port_of(taken) == port_of(first)
            unwanted = port_of(second)
        assert not answers(unwanted)

    kept(work, path)


def test_a_released_port_closes(path: Path) -> None:
    """The proxies have closed their copies."""

    def work(keeper: PortKeeper, path: Path) -> None:
        with listening() as first:
            port_keeper.give(path, first)
            port = port_of(first)
        assert answers(port)
        keeper.release()
        assert not answers(port)

    kept(work, path)


def test_a_keeper_whose_file_has_disappeared_makes_it_again(path: Path) -> None:
    """It still holds the port."""

    def opened_again(keeper: PortKeeper) -> bool:
        path.unlink()
        return keeper.open()

    async def run() -> None:
        keeper = PortKeeper(path)
        assert not keeper.open()
        with listening() as first:
            await asyncio.to_thread(port_keeper.give, path, first)
            assert opened_again(keeper)
            taken = await asyncio.to_thread(port_keeper.take, path)
            assert taken is not None
            with taken:
                assert port_of(taken) == port_of(first)
        keeper.close()

    asyncio.run(run())
    assert not path.exists()


def test_a_file_that_is_not_a_socket_of_this_user_is_refused(path: Path) -> None:
    """Another user may have put it there."""
    path.write_text("")
    with pytest.raises(AuthenticationError):
        port_keeper.take(path)


STRANGER = """
    import os, socket, sys
    os.chdir(sys.argv[1])
    os.setuid(int(sys.argv[2]))
    with socket.socket(socket.AF_UNIX) as keeper:
        keeper.settimeout(30)
        keeper.connect("port.sock")
        try:
            keeper.sendall(b"t")
            print(keeper.recv(10))
        except ConnectionError:
            print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("user", "answer"), [(0, b"e"), (65534, b"")])
def test_a_keeper_answers_its_own_user_only(tmp_path: Path, user: int, answer: bytes) -> None:
    """Even if the modes of the files would let others connect."""
    directory = tmp_path / "open"
    directory.mkdir(0o700)

    async def run() -> str:
        keeper = PortKeeper(directory / "port.sock")
        keeper.open()
        directory.chmod(0o711)
        (directory / "port.sock").chmod(0o666)
        try:
            return await asyncio.to_thread(run_program, STRANGER, str(directory), str(user))
        finally:
            keeper.close()

    assert asyncio.run(run()) == f"{answer!r}\n"


FOREIGN_KEEPER = """
    import os, socket, sys
    listener = socket.socket(fileno=int(sys.argv[1]))
    os.setuid(int(sys.argv[2]))
    listener.listen(1)  # the kernel notes the user of this moment for those who connect
    print("listens", flush=True)
    peer, _ = listener.accept()
    peer.recv(1)
    peer.sendall(b"e")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("user", [0, 65534])
def test_a_proxy_asks_a_keeper_of_its_own_user_only(path: Path, user: int) -> None:
    """Even if the file of the socket is of the right user: another one would learn the port's connections."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        descriptor = bound.fileno()
        os.set_inheritable(descriptor, True)
        code = textwrap.dedent(FOREIGN_KEEPER)
        command = [sys.executable, "-c", code, str(descriptor), str(user)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[descriptor]) as keeper:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == "listens\n"
            if user == os.geteuid():
                assert port_keeper.take(path) is None
            else:
                with pytest.raises(AuthenticationError, match=f"user {user}"):
                    port_keeper.take(path)
            keeper.kill()
