"""Each role tries what it must not do: at the wire, with its key and code of its own, and through the API.

The tables are complete: a new operation, control, kind of frame or method of the client without a row fails a test.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import serve_bridge as serve
from serve_bridge.client.client import Client, link_of
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.client.key_changes import retire_keys, rotate_keys
from serve_bridge.errors import AuthenticationError
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.key_files import read_key_file
from serve_bridge.instance.operations import Operation
from serve_bridge.proxy import proxy
from serve_bridge.replica import replica
from serve_bridge.wire import payload
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Rejected
from serve_bridge.wire.frames import Frame, Kind, encode
from serve_bridge.wire.heads import CallAnswer, CallHead, decoder, encode_head
from serve_bridge.wire.keys import CALLERS, OF_FILES, Key, Role
from serve_bridge.wire.segments import join

NAME = "roles"
CONTROLS = ("@check", "@completed", "@configure", "@drain", "@give_port", "@keys", "@move", "@statistics")
"""The controls of replicas and proxies, which only the engine uses."""
FORBIDDEN = [
    *((role, operation) for role in (Role.FORWARD, Role.CALL) for operation in Operation),
    (Role.MANAGE, Operation.KEYS),
]
"""The operations that a role must not use."""
OPERATOR_MAY = frozenset(
    {
        *(Operation.CREATE_BACKEND, Operation.UPDATE_BACKEND, Operation.UPDATE_BACKEND_CONFIG),
        *(Operation.DELETE_BACKEND, Operation.LIST_BACKENDS, Operation.CREATE_ENDPOINT, Operation.DECLARE_ENDPOINTS),
        *(Operation.DELETE_ENDPOINT, Operation.LIST_ENDPOINTS, Operation.SET_TRAFFIC, Operation.SHADOW_TRAFFIC),
        *(Operation.HOLD_DEPLOYMENT, Operation.BEGIN_DEPLOYMENT, Operation.NOTE_DEPLOYMENT, Operation.END_DEPLOYMENT),
        *(Operation.STATUS, Operation.DIAGNOSE, Operation.EXPORT_STATE, Operation.DIFFERENCES, Operation.LEASE),
        *(Operation.RENEW_BACKEND, Operation.RENEW_PROXIES, Operation.SHUTDOWN),
    }
)
"""The operations of the role `manage`."""
FRAMES: dict[Kind, str] = {
    Kind.REQUEST: "opens",
    Kind.CALL: "opens",
    Kind.DATA: "closes",
    Kind.RESPONSE: "closes",
    Kind.REJECT: "closes",
    Kind.CANCEL: "closes",
    Kind.ABORT: "closes",
    Kind.CREDIT: "closes",
    Kind.GOAWAY: "closes",
    Kind.PING: "answers",
    Kind.PONG: "closes",
}
"""Each kind of frame from a caller without an open stream: it opens one, closes the connection, or gets an answer."""


class Bomb:
    """It makes a directory in each process that unpickles it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self._path),))


class Backend:
    """Answers in every way."""

    def __call__(self, request: Any) -> Any:
        """Return the data of the call."""
        return request.data

    def odd(self) -> Any:
        """Return a value that is not plain data."""
        return {1, 2}

    def count(self, up_to: int) -> Iterator[int]:
        """Count."""
        yield from range(up_to)

    def fail(self) -> None:
        """Raise."""
        raise LookupError("not here")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the key files."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def owner(runtime: str, keys: Path) -> Iterator[serve.Client]:
    """A client with all roles of an instance with a proxy."""
    client = serve.start(
        runtime=runtime,
        name=NAME,
        listen="127.0.0.1:0",
        key_file=str(keys / "secret"),
        http_options={"port": 0},
    )
    client.create_backend("b", Backend)
    client.create_endpoint("e", backend="b", route="/e")
    yield client
    client.shutdown()


def key_of(keys: Path, role: Role) -> Key:
    """Return the key in the key file of *role*."""
    return read_key_file(keys / f"{NAME}.{role.name.lower()}.key")[1]


def places(owner: serve.Client) -> dict[str, SocketAddress]:
    """Return where the processes of the instance listen."""
    table = link_of(owner).routing_table()
    assert table is not None
    instance = link_of(owner).instance
    return {"controller": instance.controller, "replica": table.backends["b"].replicas[0], "proxy": table.proxies[0]}


def at(
    owner: serve.Client, where: str, key: Key, role: Role, work: Callable[[CallerConnection], Awaitable[Any]]
) -> Any:
    """Connect in *role* to a process of the instance, and return the result of *work*."""

    async def run() -> Any:
        connection = await dial(places(owner)[where], key, owner.generation, role)
        try:
            return await work(connection)
        finally:
            connection.close()

    return asyncio.run(run())


def send(name: str, body: bytes, backend: str = "") -> Callable[[CallerConnection], Awaitable[Any]]:
    """Return work that calls the operation or method *name*; it returns the reason of a rejection, or the answer."""

    async def work(connection: CallerConnection) -> Any:
        head = CallHead("e", backend, 0, 5.0, "id", name, "GET", None, False, len(body), body)
        stream = connection.open(Kind.CALL, encode_head(head), end=True)
        try:
            frame: Frame = await asyncio.wait_for(stream.reply, 10)
        except Rejected as rejected:
            return rejected.rejection.reason
        return decoder(CallAnswer)(frame.payload)

    return work


@pytest.mark.parametrize(("role", "operation"), FORBIDDEN, ids=lambda value: value.name)
def test_only_manage_may_use_operations(
    owner: serve.Client, keys: Path, tmp_path: Path, role: Role, operation: Operation
) -> None:
    """The controller does not even read the arguments."""
    bomb = join(payload.pack(Bomb(tmp_path / "ran")))
    assert at(owner, "controller", key_of(keys, role), role, send(operation, bomb)) == "not allowed"
    assert not (tmp_path / "ran").exists()


def test_the_tables_of_operations_are_complete() -> None:
    """A new operation gets a row: an operator may use it, or not."""
    refused = {operation for role, operation in FORBIDDEN if role is Role.MANAGE}
    assert (OPERATOR_MAY | refused, OPERATOR_MAY & refused) == (set(Operation), set())


def test_the_table_of_controls_is_complete() -> None:
    """A new control of a replica or a proxy gets a row."""
    found = {name for module in (replica, proxy) for name in re.findall(r'"(@\w+)":', inspect.getsource(module))}
    assert found == set(CONTROLS)


def test_the_table_of_frames_is_complete() -> None:
    """A new kind of frame gets a row."""
    assert FRAMES.keys() == set(Kind)


@pytest.mark.parametrize("kind", [kind for kind, effect in FRAMES.items() if effect != "opens"])
@pytest.mark.parametrize("role", OF_FILES)
@pytest.mark.parametrize("where", ["controller", "replica"])
def test_a_role_sends_each_kind_of_frame(owner: serve.Client, keys: Path, role: Role, where: str, kind: Kind) -> None:
    """Requests and calls have tests of their own. Any other frame but a PING ends its own connection only."""
    if (where, role) == ("replica", Role.MANAGE):
        role = Role.CALL  # a replica does not serve operators, who have the key for calls too

    async def work(connection: CallerConnection) -> bool:
        changed = asyncio.Event()
        connection.on_change = changed.set
        connection.send(encode(kind, 0 if kind in (Kind.PING, Kind.PONG, Kind.GOAWAY) else 99))
        if FRAMES[kind] == "answers":
            connection.send(encode(Kind.PING, 0))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(changed.wait(), 0.2)
        else:
            await asyncio.wait_for(changed.wait(), 20)
        return connection.closed

    key = key_of(keys, role)
    assert at(owner, where, key, role, work) is (FRAMES[kind] == "closes")
    assert owner.get_handle("e").call(1) == 1


@pytest.mark.parametrize("role", [Role.FORWARD, Role.CALL])
@pytest.mark.parametrize("control", CONTROLS)
def test_no_role_with_a_file_controls_a_replica(
    owner: serve.Client, keys: Path, tmp_path: Path, role: Role, control: str
) -> None:
    """A Ray driver may ask how many of its calls have ended."""
    bomb = join(payload.pack(Bomb(tmp_path / "ran")))
    answer = at(owner, "replica", key_of(keys, role), role, send(control, bomb))
    if role is Role.CALL and control == "@completed":
        assert isinstance(answer, CallAnswer)
        return
    assert answer == "not allowed"
    assert not (tmp_path / "ran").exists()
    assert owner.get_handle("e").call(1) == 1


@pytest.mark.parametrize("long", [False, True])
def test_no_process_unpickles_what_a_forwarder_sends(
    owner: serve.Client, keys: Path, tmp_path: Path, long: bool
) -> None:
    """A pickle in its call is not read, inside the head or behind it."""
    pickled = join(payload.pack((Bomb(tmp_path / "ran"), {"rest": bytes(1 << 17) if long else b""})))

    async def work(connection: CallerConnection) -> CallAnswer:
        body = b"" if long else pickled
        head = CallHead("e", "b", 0, 5.0, "id", "", "GET", None, False, len(pickled), body)
        stream = connection.open(Kind.CALL, encode_head(head), end=not long)
        if long:
            stream.start_upload([pickled])
        return decoder(CallAnswer)((await asyncio.wait_for(stream.reply, 10)).payload)

    answer = at(owner, "replica", key_of(keys, Role.FORWARD), Role.FORWARD, work)
    assert answer.failed
    assert not (tmp_path / "ran").exists()
    assert at(owner, "replica", key_of(keys, Role.CALL), Role.CALL, work).failed is not None
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("role", [Role.FORWARD, Role.CALL, Role.MANAGE])
@pytest.mark.parametrize("claimed", CALLERS)
@pytest.mark.parametrize("where", ["controller", "replica", "proxy"])
def test_a_key_proves_no_stronger_role(owner: serve.Client, keys: Path, role: Role, claimed: Role, where: str) -> None:
    """A proxy serves none of the roles with files, and a replica not that of operators."""
    key = key_of(keys, role)
    served = {
        "controller": {Role.FORWARD, Role.CALL, Role.MANAGE},
        "replica": {Role.FORWARD, Role.CALL},
        "proxy": set[Role](),
    }[where]
    held = {each for each in (Role.FORWARD, Role.CALL, Role.MANAGE) if each <= role}
    forged = Key.of_role(claimed, key.of(role), key.id) if claimed not in held else key

    async def nothing(connection: CallerConnection) -> str:
        return "connected"

    if claimed in held & served:
        assert at(owner, where, forged, claimed, nothing) == "connected"
    else:
        with pytest.raises((AuthenticationError, serve.ServeBridgeError, OSError)):
            at(owner, where, forged, claimed, nothing)


# through the API


@pytest.fixture
def client(owner: serve.Client, keys: Path, request: pytest.FixtureRequest) -> Iterator[serve.Client]:
    """A client with the key of one role only."""
    instance: Instance = link_of(owner).instance
    client = Client(InstanceLink(msgspec.structs.replace(instance, secret=key_of(keys, request.param).text)))
    yield client
    client.close()


as_forwarder = pytest.mark.parametrize("client", [Role.FORWARD], indirect=True)
as_caller = pytest.mark.parametrize("client", [Role.CALL], indirect=True)
as_operator = pytest.mark.parametrize("client", [Role.MANAGE], indirect=True)

MANAGEMENT: dict[str, Callable[[serve.Client], object]] = {
    "create_backend": lambda client: client.create_backend("c", Backend),
    "update_backend": lambda client: client.update_backend("b", Backend),
    "update_backend_config": lambda client: client.update_backend_config("b", {"num_replicas": 2}),
    "delete_backend": lambda client: client.delete_backend("b"),
    "list_backends": lambda client: client.list_backends(),
    "get_backend_config": lambda client: client.get_backend_config("b"),
    "create_endpoint": lambda client: client.create_endpoint("f", backend="b"),
    "delete_endpoint": lambda client: client.delete_endpoint("e"),
    "list_endpoints": lambda client: client.list_endpoints(),
    "set_traffic": lambda client: client.set_traffic("e", {"b": 1.0}),
    "shadow_traffic": lambda client: client.shadow_traffic("e", "b", 0.5),
    "status": lambda client: client.status(),
    "deploy": lambda client: client.deploy(serve.backend("declared")(lambda request: None)),
    "shutdown": lambda client: client.shutdown(),
}


ALLOWED = {"address", "close", "generation", "get_handle", "handle", "http_urls", "lost", "name"}
"""Names of a client that every role may use."""


def test_the_table_of_the_client_is_complete() -> None:
    """A new method of the client gets a row, or needs no role."""
    assert {name for name in dir(serve.Client) if not name.startswith("_")} - ALLOWED == MANAGEMENT.keys()


@pytest.mark.parametrize("client", [Role.FORWARD, Role.CALL], indirect=True)
@pytest.mark.parametrize("operation", MANAGEMENT)
def test_an_operation_names_the_role_and_the_key_file(client: serve.Client, operation: str) -> None:
    """Nothing has changed."""
    with pytest.raises(
        serve.NotAllowed, match=r"needs the role manage, .* set SERVE_BRIDGE_KEY_FILE to roles\.manage\.key"
    ):
        MANAGEMENT[operation](client)
    assert client.get_handle("e").call(1) == 1


@as_operator
def test_an_operator_may_do_all(client: serve.Client) -> None:
    """It calls backends too."""
    client.create_backend("c", Backend)
    client.delete_backend("c")
    assert client.get_handle("e").call({1}) == {1}
    assert client.status()["name"] == "roles"


PLAIN = [None, True, 5, 1 << 80, 0.5, "é", b"\0", [1, (2, [3])], {"a": {1: (None,)}}, b"x" * 300_000]


@as_forwarder
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{value!r:.20}")
def test_a_forwarder_calls_with_plain_data(client: serve.Client, value: object) -> None:
    """Blocking and awaited, short and long."""
    handle = client.get_handle("e")

    async def awaited() -> object:
        return await client.get_handle("e").acall(value)

    assert (handle.call(value), asyncio.run(awaited())) == (value, value)


@as_forwarder
def test_a_forwarder_calls_with_arrays(client: serve.Client) -> None:
    """Large ones too."""
    array = np.arange(100_000.0).reshape(1000, 100)
    assert np.array_equal(client.get_handle("e").call([array, 1])[0], array)


@as_forwarder
def test_a_forwarder_gets_a_stream_of_plain_items(client: serve.Client) -> None:
    """Item by item."""
    assert list(client.get_handle("e").options(method_name="count").stream(up_to=4)) == [0, 1, 2, 3]


@as_forwarder
def test_a_forwarder_learns_which_role_other_arguments_need(client: serve.Client) -> None:
    """Nothing was sent."""
    with pytest.raises(serve.NotAllowed, match=r"builtins\.set.* needs the role call, .* roles\.call\.key"):
        client.get_handle("e").call({1, 2})
    with pytest.raises(serve.NotAllowed, match="role call"):
        asyncio.run(client.get_handle("e").acall(Bomb(Path("x"))))


@as_forwarder
def test_a_forwarder_learns_which_role_other_results_need(client: serve.Client) -> None:
    """The result is not sent."""
    with pytest.raises(serve.SerializationError, match=r"builtins\.set; a caller with the role call"):
        client.get_handle("e").options(method_name="odd").call()


@as_forwarder
def test_a_forwarder_gets_errors_by_name(client: serve.Client) -> None:
    """With the text, and with the traceback."""
    with pytest.raises(serve.BackendError, match="LookupError: not here"):
        client.get_handle("e").options(method_name="fail").call()


@as_forwarder
def test_a_forwarder_makes_no_ray_calls(client: serve.Client) -> None:
    """Ray pickles arguments."""
    with pytest.raises(serve.NotAllowed, match=r"handle\.remote\(\) needs the role call"):
        client.get_handle("e").remote(1)


@as_caller
def test_a_caller_sends_any_value(client: serve.Client) -> None:
    """And gets errors as themselves."""
    assert client.get_handle("e").call({1, 2}) == {1, 2}
    with pytest.raises(LookupError, match="not here"):
        client.get_handle("e").options(method_name="fail").call()


@pytest.mark.parametrize("client", [Role.FORWARD, Role.CALL], indirect=True)
def test_an_unknown_endpoint_is_found_out_by_the_routing_table(client: serve.Client) -> None:
    """No operation is needed for that."""
    with pytest.raises(serve.EndpointNotFound, match="nowhere"):
        client.get_handle("nowhere")


# new keys


def test_old_keys_are_valid_until_they_are_retired(owner: serve.Client, keys: Path) -> None:
    """Each process of the instance knows the new keys after a rotation, and refuses the old ones after `retire`."""

    async def nothing(connection: CallerConnection) -> str:
        return "connected"

    def reached(role: Role, key: Key) -> list[str]:
        found = []
        for where in ("controller", "replica"):
            with suppress(AuthenticationError, serve.ServeBridgeError, OSError):
                found += [where for _ in [at(owner, where, key, role, nothing)]]
        return found

    old = {role: key_of(keys, role) for role in (Role.FORWARD, Role.CALL)}
    assert rotate_keys(NAME, str(keys / "secret"), None) == (str(keys), True)
    for role, key in old.items():
        assert key_of(keys, role).id != key.id
        assert reached(role, key) == reached(role, key_of(keys, role)) == ["controller", "replica"]
    assert owner.get_handle("e").call(1) == 1
    assert retire_keys(NAME, str(keys / "secret"), None) == (str(keys), True)
    for role, key in old.items():
        assert (reached(role, key), reached(role, key_of(keys, role))) == ([], ["controller", "replica"])
    assert owner.get_handle("e").call(1) == 1
    assert owner.status()["name"] == NAME
