"""An instance as another machine has it: no unix socket can be found, so everything goes over TCP."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.controller.controller import Controller
from serve_bridge.instance.directories import base_directory
from serve_bridge.instance.instance import Instance, new_generation
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.runtimes.local import LocalRuntime
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire import file_keeper
from serve_bridge.wire.keys import Key
from serve_bridge.wire.socket_files import bind_unix
from tests.support.programs import run_program

LARGE = bytes(range(256)) * (5 << 12)


class Backend:
    """Answers in every way there is."""

    async def __call__(self, request: Request | serve.ServeRequest) -> object:
        """Return what was sent."""
        return request.data if isinstance(request, serve.ServeRequest) else await request.json()

    async def count(self, up_to: int) -> AsyncIterator[int]:
        """Count."""
        for number in range(up_to):
            yield number

    def fail(self) -> None:
        """Raise."""
        raise LookupError("not here")


def unlink_sockets(directory: Path) -> None:
    """Take away what another machine would not have; who listens there goes on."""
    for path in directory.glob("*.sock"):
        path.unlink()


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """An instance that listens on TCP as well, with a backend of two replicas."""
    generation = new_generation()
    spec = InstanceSpec(
        name="tcp",
        generation=generation,
        runtime="local",
        directory=str(base_directory() / f"tcp-{generation}"),
        detached=True,
        tcp_host="127.0.0.1",
        http=HTTPOptions(port=0),
    )
    ended = threading.Event()
    thread = LoopThread("serve_bridge-controller")

    def end() -> None:
        ended.set()
        thread.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_keeper, "LOOK_S", 3600)  # otherwise the sockets are soon made again
        controller = Controller(spec, Key(), LocalRuntime(end))
        found = thread.submit(controller.start).result(20)
        starter = serve.connect(found.address)
        starter.create_backend("b", Backend, config={"num_replicas": 2})
        starter.create_endpoint("e", backend="b", route="/e", methods=["GET", "POST"])
        unlink_sockets(Path(spec.directory))
        yield found
        starter.shutdown()
        assert ended.wait(10)
        thread.join(10)


@pytest.fixture(scope="module")
def handle(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Handle]:
    """A handle of a client that has a copy of the instance's file and nothing else."""
    copy = tmp_path_factory.mktemp("elsewhere") / "copied.json"
    copy.touch(0o600)
    copy.write_bytes(Path(instance.address).read_bytes())
    client = serve.connect(str(copy))
    yield client.get_handle("e")
    client.close()


def test_there_is_no_unix_socket(instance: Instance, handle: serve.Handle) -> None:
    """So whatever works here works over TCP."""
    assert handle.call(1) == 1
    assert list(Path(instance.directory).glob("*.sock")) == []
    assert instance.controller.tcp is not None


def test_a_stale_unix_socket_does_not_hide_the_tcp_address(instance: Instance, tmp_path: Path) -> None:
    """A killed process leaves one, and another host may have one at the same path; blocking and awaited calls go on."""
    copy = tmp_path / "copied.json"
    copy.touch(0o600)
    copy.write_bytes(Path(instance.address).read_bytes())
    client = serve.connect(str(copy))
    table = link_of(client).routing_table()
    assert table is not None
    client.close()
    stale = [instance.controller.unix, *(replica.unix for replica in table.backends["b"].replicas)]
    for path in stale:
        bind_unix(path).close()
    try:
        client = serve.connect(str(copy))
        handle = client.get_handle("e")
        assert (handle.call(1), asyncio.run(awaited(handle, 2))) == (1, 2)
        client.close()
    finally:
        unlink_sockets(Path(instance.directory))


@pytest.mark.parametrize("value", [None, {"a": [1, 2]}, LARGE], ids=["nothing", "little", "much"])
def test_a_call_is_answered(handle: serve.Handle, value: object) -> None:
    """Arguments and results of any length arrive whole."""
    assert handle.call(value) == value


async def awaited(handle: serve.Handle, value: object) -> object:
    """Return the answer to an awaited call."""
    return await handle.acall(value)


@pytest.mark.parametrize("value", [None, {"a": [1, 2]}, LARGE], ids=["nothing", "little", "much"])
def test_an_awaited_call_is_answered(handle: serve.Handle, value: object) -> None:
    """The same from an event loop."""
    assert asyncio.run(awaited(handle, value)) == value


def test_a_generator_is_streamed(handle: serve.Handle) -> None:
    """Item by item."""
    assert list(handle.options(method_name="count").stream(up_to=5)) == [0, 1, 2, 3, 4]


def test_an_error_arrives_as_itself(handle: serve.Handle) -> None:
    """As over a unix socket."""
    with pytest.raises(LookupError, match="not here"):
        handle.options(method_name="fail").call()


def test_a_handle_travels_with_the_address_of_the_copy(handle: serve.Handle, instance: Instance) -> None:
    """The instance's own file is on another machine."""
    program = """
        import pickle, sys
        print(pickle.loads(bytes.fromhex(sys.argv[1])).call("arrived"))
    """
    own = Path(instance.address)
    aside = own.rename(own.with_suffix(".aside"))
    try:
        assert run_program(program, pickle.dumps(handle).hex()) == "arrived\n"
    finally:
        aside.rename(own)


def test_management_works(handle: serve.Handle, instance: Instance) -> None:
    """The controller is reached over TCP too."""
    client = serve.connect(str(instance.address))
    assert client.list_endpoints()["e"]["route"] == "/e"
    assert client.status()["backends"]["b"]["wanted"] == 2
    client.close()


def test_requests_over_http_are_answered(handle: serve.Handle, instance: Instance) -> None:
    """A proxy reaches replicas of other machines so."""
    client = serve.connect(instance.address)
    url = client.http_urls[0]
    client.close()
    sent = {"text": "é" * 200_000}
    assert httpx.post(f"{url}/e", json=sent, trust_env=False, timeout=30).json() == sent
