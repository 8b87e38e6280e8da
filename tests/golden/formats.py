"""The formats between processes, and of data for later processes: an example of each, with its writer and its reader.

The bytes of each example are in a file beside this module. The version which added the format wrote them.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import msgspec
import numpy as np

from serve_bridge import errors
from serve_bridge.client.call_options import CallOptions
from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions, Location
from serve_bridge.controller.checkpoint import Checkpoint, Checkpoints, ProxySnapshot, ReplicaSnapshot
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.http.headers import HeaderList
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.instance_status import (
    BackendStatus,
    DeploymentStatus,
    EndpointStatus,
    InstanceStatus,
    NodeStatus,
    ProxyStatus,
)
from serve_bridge.instance.key_files import read_key_file, read_secrets, role_file, write_secrets
from serve_bridge.instance.operations import Operation
from serve_bridge.instance.private_file import write_private
from serve_bridge.request.frozen_request import FrozenRequest
from serve_bridge.routing_table import (
    BackendRoute,
    EndpointRoute,
    RoutingTable,
    decode_table,
    decode_version,
    encode_version,
)
from serve_bridge.runtimes.local import MemoryStore
from serve_bridge.specs import (
    BackendSpec,
    BackendUpdate,
    DeclaredEndpoint,
    EndpointSpec,
    InstanceSpec,
    Origin,
    ProxySpec,
    ReplicaSpec,
    UnfinishedDeployment,
)
from serve_bridge.state.document import decode as decode_state
from serve_bridge.state.document import encode as encode_state
from serve_bridge.state.records import Recorder
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.frozen_code import freeze_code, thaw_code
from serve_bridge.wire import failure, payload, plain_values
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.frames import END, MORE, Frame, FrameReader, Kind, encode
from serve_bridge.wire.handshake import Handshake, identity
from serve_bridge.wire.heads import (
    CallAnswer,
    CallHead,
    HttpAnswer,
    HttpFailure,
    HttpHead,
    Rejection,
    decoder,
    encode_head,
)
from serve_bridge.wire.keys import OF_FILES, Key, Role
from serve_bridge.wire.opaque import Opaque
from serve_bridge.wire.seal import Seal
from serve_bridge.wire.segments import join
from serve_bridge.wire.websocket_messages import Close, Message
from serve_bridge.wire.websocket_messages import decode as decode_message
from serve_bridge.wire.websocket_messages import encode as encode_message


class Format(NamedTuple):
    """One format.

    Attributes:
        write: Returns the example as bytes.
        read: Returns the meaning of such bytes.
        means: The meaning of the example.
        is_stable: Whether the same example always gives the same bytes. Those of a pickle depend on library versions.
        may_grow: Whether new fields may follow the old ones, because earlier versions skip them.
    """

    write: Callable[[], bytes]
    read: Callable[[bytes], Any]
    means: Any
    is_stable: bool = True
    may_grow: bool = False


SECRET: Final = bytes(range(32))
ADDRESS: Final = SocketAddress("r-1", "/run/r-1.sock", ("10.0.0.1", 7001), ("upload",))
CONTROLLER: Final = SocketAddress("controller", "/run/controller.sock", ("10.0.0.1", 7000))
INSTANCE: Final = Instance(
    name="shop", generation="0a1b2c3d", runtime="ray", directory="/run/i", controller=CONTROLLER, secret=SECRET.hex()
)
CONFIG: Final = BackendConfig(num_replicas=2, user_config=Opaque({"threshold": 0.5}), exposed_methods=("upload",))
ORIGIN: Final = Origin("shop", 1.5, "3", "f" * 8, ("num_replicas",), ("/srv/shop",))
BACKEND: Final = BackendSpec("b", b"", True, CONFIG, Opaque({"num_cpus": 1}), 2, ORIGIN)
UNFINISHED: Final = UnfinishedDeployment(
    "shop", 1.5, ("create b",), ("create e",), frozenset({"backend b"}), "it fails"
)
HTTP: Final = HTTPOptions(host="0.0.0.0", port=8000, location=Location.EveryNode, allowed_hosts=("*",))
STATUS: Final = InstanceStatus(
    name="shop",
    nodes={"n1": NodeStatus(address="10.0.0.1", proxy="http://10.0.0.1:8000", failure=None)},
    http_urls=["http://10.0.0.1:8000"],
    proxies={"proxy-1": ProxyStatus(url="http://10.0.0.1:8000", refused={"503": 1})},
    table_version=7,
    backends={
        "b": BackendStatus(
            wanted=2,
            replicas={"r-1": "ready"},
            failure="it fails",
            failed=False,
            last_end=None,
            owner="shop",
            version="3",
            deployed_at=1.5,
            fingerprint="f" * 8,
            declared=["num_replicas"],
            search_path=["/srv/shop"],
        )
    },
    endpoints={
        "e": EndpointStatus(
            route="/e",
            methods=["GET"],
            timeout_s=2.0,
            traffic={"b": 1.0},
            shadows={},
            owner=None,
            version=None,
            deployed_at=None,
        )
    },
    deployments=[
        DeploymentStatus(project="shop", begun_at=1.5, running=False, begun=["create b"], left=[], failure=None)
    ],
)
CODE: Final = Application("wsgi", "wsgiref.simple_server:demo_app", "wsgiref.simple_server")
ERRORS: Final[tuple[errors.ServeBridgeError, ...]] = (
    errors.ConfigError("a"),
    errors.EndpointNotFound("e", ["f"]),
    errors.BackendNotFound("b", ["c"]),
    errors.MethodNotExposed("b", "m"),
    errors.BackendOverloaded("full"),
    errors.DeadlineExceeded("late", "no"),
    errors.ReplicaDied("died"),
    errors.BackendError("ValueError", "text", "trace"),
    errors.BackendStartError("b", "reason", "trace"),
    errors.DeploymentError("create b", "reason", ["a"], ["c"]),
    errors.SerializationError("a"),
    errors.NotConnected("a"),
    errors.InstanceClosed("a"),
    errors.ProtocolError("a"),
    errors.AuthenticationError("a"),
)
_HEADERS: Final[HeaderList] = [(b"accept", b"*/*"), (b"x-a", b"\xe4")]


def _head(example: Any, read: Callable[[Any], Any] | None = None) -> Format:
    return Format(lambda: encode_head(example), read or decoder(type(example)), example, may_grow=True)


def _frame(kind: Kind, flags: int, load: int, stream: int, content: bytes) -> Format:
    def read(data: bytes) -> Any:
        (frame,) = FrameReader().feed(data)
        return frame

    return Format(
        lambda: encode(kind, stream, content, flags, load), read, Frame(int(kind), flags, load, stream, content)
    )


def _message(example: Message) -> Format:
    return Format(lambda: join(encode_message(example)), decode_message, example)


def _pickle(example: Any, show: Callable[[Any], Any] = lambda value: value) -> Format:
    """Return the format of *example* on the wire and in the checkpoint, as a pickle; *show* makes it comparable."""
    return Format(lambda: join(payload.pack(example)), lambda data: show(payload.unpack(data)), show(example), False)


def _rays_pickle(example: Any, show: Callable[[Any], Any]) -> Format:
    """Return the format of *example* as an argument of an actor's constructor, which Ray keeps for a restart."""
    return Format(lambda: pickle.dumps(example, 5), lambda data: show(pickle.loads(data)), show(example), False)


def _without_id(key: Key) -> Key:
    """Return *key* as earlier peers of version 2 have it."""
    return Key.of_text(",".join(part for part in key.only(Role.PYTHON).text.split(",") if not part.startswith("id:")))


def _handshake(version: int, *, caller: bool) -> Handshake:
    """Return one side of a handshake, with a constant nonce, as a process whose newest version is *version* has it."""
    key = _without_id(Key(SECRET)) if caller and version == 2 else Key(SECRET)
    role, nonce = (Role.PYTHON, b"c" * 32) if caller else (Role.LISTENER, b"l" * 32)
    with patch("serve_bridge.wire.handshake.secrets.token_bytes", lambda size: nonce[:size]):
        return Handshake(key, role, identity("0a1b2c3d", "r-1"), caller=caller, versions=(2, version))


def _write_handshake(version: int) -> bytes:
    caller, listener = _handshake(version, caller=True), _handshake(version, caller=False)
    hello = caller.start()
    answer = listener.feed(hello)
    return hello + answer + caller.feed(answer)


def _read_handshake(version: int, data: bytes) -> Any:
    """Return the version and the roles of both sides by the recorded bytes, and whether today both say the same."""
    hello, answer, proof = data[:64], data[64:160], data[160:]
    caller, listener = _handshake(version, caller=True), _handshake(version, caller=False)
    said = (caller.start(), listener.feed(hello), caller.feed(answer))
    listener.feed(proof)
    return caller.version, listener.version, caller.peer_role, listener.peer_role, said == (hello, answer, proof)


def _of_version(version: int) -> Format:
    means = (version, version, Role.LISTENER, Role.PYTHON, True)
    return Format(partial(_write_handshake, version), partial(_read_handshake, version), means)


def _open(data: bytes) -> bytes:
    return Seal(SECRET).open(data)


def _roles(key: Key) -> list[Role]:
    return [role for role in (Role.EDGE, Role.PYTHON, Role.CONTROLLER) if key.holds(role)]


def _signed(key: Key) -> tuple[list[Role], list[bytes]]:
    """Return the roles of version 2 in *key*, and a signature of each."""
    return _roles(key), [key.sign(role, b"label") for role in _roles(key)]


def _shown_errors(found: Any) -> Any:
    return [(type(error), str(error), error.args, getattr(error, "executed", None)) for error in found]


def _shown_failure(error: BaseException) -> Any:
    return type(error), error.args, str(error.__cause__)


def _shown_code(code: Any) -> Any:
    what, args, kwargs = code
    shown = (what.kind, what.path, what.__module__) if isinstance(what, Application) else what
    return shown, args, kwargs


def wanted() -> WantedState:
    """Return a wanted state with one of everything."""
    state = WantedState({"b": BACKEND}, {}, {"shop": UNFINISHED})
    state.endpoints["e"] = EndpointSpec("e", "/e", ("GET",), TrafficPolicy({"b": 1.0}, {"b": 0.5}), ORIGIN, 2.0)
    return state


CHECKPOINT: Final = Checkpoint(
    wanted=wanted(),
    version=7,
    http_port=8000,
    tcp_port=7000,
    proxies=[ProxySnapshot("proxy-1", "n1", "http://10.0.0.1:8000", ADDRESS)],
    replicas=[ReplicaSnapshot("r-1", "b", 2, ADDRESS), ReplicaSnapshot("r-2", "b", 2, None)],
)


def _write_checkpoint() -> bytes:
    async def main() -> bytes:
        store = MemoryStore()
        await Checkpoints(store, "shop").save(CHECKPOINT)
        return await store.get("checkpoint") or b""

    return asyncio.run(main())


def _read_checkpoint(data: bytes) -> Any:
    async def main() -> Any:
        store = MemoryStore()
        await store.put("checkpoint", data)
        return await Checkpoints(store, "shop").load()

    return asyncio.run(main())


def _write_state() -> bytes:
    record, blobs = Recorder("shop").record(*vars(wanted()).values())
    return encode_state(record, code=blobs, sealed=True)


def _read_state(data: bytes) -> Any:
    record, blobs = decode_state(data)
    backends, endpoints, unfinished = record.restored(blobs.__getitem__)
    assert unfinished == CHECKPOINT.wanted.unfinished
    return backends, endpoints


def _write_key_files() -> bytes:
    """Return the file with the secrets and those of the roles, one after another, after a rotation."""
    key = Key.joined([Key(SECRET), Key(bytes(32))])
    with TemporaryDirectory() as directory:
        path = Path(directory) / "secret"
        write_secrets(path, "shop", key)
        files = [path, *(role_file(path.parent, "shop", role) for role in OF_FILES)]
        return b"".join(file.read_bytes() for file in files)


def _read_key_files(data: bytes) -> Any:
    """Return the key of each role, and the valid secrets, the oldest first."""
    lines = data.splitlines(keepends=True)
    found = {}
    with TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        for line in lines[2:]:
            write_private(path, line)
            name, key = read_key_file(path)
            found[name] = key.of(Role[name.upper()])
        write_private(path, b"".join(lines[:2]))
        secrets = read_secrets(path)
    assert secrets is not None
    return found, [each.secret for each in reversed(secrets.each)]


FORMATS: Final[dict[str, Format]] = {
    # the handshake of each version of the wire
    "handshake-2": _of_version(2),
    "handshake-3": _of_version(3),
    "record": Format(lambda: Seal(SECRET).close(b"data" * 3), _open, b"data" * 3),
    # frames
    "frame-request": _frame(Kind.REQUEST, END, 0, 1, b"head"),
    "frame-call": _frame(Kind.CALL, 0, 0, 2, b"head"),
    "frame-data": _frame(Kind.DATA, MORE, 3, 2, b"piece"),
    "frame-response": _frame(Kind.RESPONSE, END, 3, 2, b"head"),
    "frame-reject": _frame(Kind.REJECT, END, 3, 2, b"reason"),
    "frame-cancel": _frame(Kind.CANCEL, END, 0, 2, b""),
    "frame-abort": _frame(Kind.ABORT, END, 3, 2, b""),
    "frame-credit": _frame(Kind.CREDIT, 0, 0, 2, bytes(4)),
    "frame-goaway": _frame(Kind.GOAWAY, 0, 3, 2, b""),
    "frame-ping": _frame(Kind.PING, 0, 0, 0, b""),
    "frame-pong": _frame(Kind.PONG, 0, 3, 0, b""),
    # heads
    "http-head": _head(
        HttpHead(
            endpoint="e",
            backend="b",
            version=7,
            timeout_s=1.5,
            request_id="id",
            call_method="upload",
            method="POST",
            scheme="http",
            http_version="1.1",
            path="/e/ä",
            raw_path=b"/e/%C3%A4",
            root_path="",
            query=b"a=1",
            headers=_HEADERS,
            path_params=(("id", "int", "5"),),
            client=("127.0.0.1", 5000),
            server=("127.0.0.1", None),
            forwarded=True,
            context={"user": 5},
            body=b"body",
            subprotocols=("chat",),
            trailers=True,
            body_length=4,
        )
    ),
    "http-answer": _head(HttpAnswer(200, _HEADERS, b"body", HttpFailure("b", "T", "text", "trace"), True, True)),
    "call-head": _head(CallHead("e", "b", 7, 1.5, "id", "m", "POST", {"a": "b"}, True, 4, b"body", "process")),
    "call-answer": _head(CallAnswer(True, 4, b"body")),
    "rejection": _head(Rejection("full", "detail")),
    "controller-answer": _head(CONTROLLER),
    "routing-table": _head(
        RoutingTable(
            "0a1b2c3d",
            7,
            {"b": BackendRoute((ADDRESS,), 8, 1000)},
            {"e": EndpointRoute("/e", ("GET",), {"b": 1.0}, {"b": 0.5}, 2.0, True)},
            (SocketAddress("proxy-1", "/run/proxy-1.sock"),),
        ),
        decode_table,
    ),
    "acknowledgement": Format(lambda: encode_version(7), decode_version, 7),
    "failure": Format(
        lambda: failure.pack(ValueError("text")),
        lambda data: _shown_failure(failure.unpack(data)),
        (ValueError, ("text",), "\n\nValueError: text\n"),
        is_stable=False,
    ),
    "websocket-text": _message("text"),
    "websocket-bytes": _message(b"bytes"),
    "websocket-close": _message(Close(1000, "reason")),
    # values of Python calls
    "buffers": Format(
        lambda: join(payload.pack([np.arange(5), "text"])),
        lambda data: [value.tolist() if isinstance(value, np.ndarray) else value for value in payload.unpack(data)],
        [[0, 1, 2, 3, 4], "text"],
        is_stable=False,
    ),
    "plain-values": Format(
        lambda: join(
            plain_values.pack([None, 2**70, 1.5, "text", b"b", (1, {"a": [True]}), np.arange(3, dtype="<i4")])
        ),
        lambda data: [
            value.tolist() if isinstance(value, np.ndarray) else value for value in plain_values.unpack(data)
        ],
        [None, 2**70, 1.5, "text", b"b", (1, {"a": [True]}), [0, 1, 2]],
    ),
    "passed-request": _pickle(FrozenRequest({"method": "GET", "path": "/", "headers": [(b"a", b"b")]}, b"body")),
    "call-options": _pickle(CallOptions("m", "key", "POST", {"x-request-id": "id"}, 5.0, ("b",))),
    "errors": _pickle(list(ERRORS), _shown_errors),
    # operations of the controller, of replicas and of proxies
    "create-backend": _pickle(((BACKEND,), {})),
    "update-backend": _pickle(
        (
            (BackendUpdate(name="b", code=b"code", is_async=True, is_application=False, config=CONFIG, origin=ORIGIN),),
            {},
        )
    ),
    "update-config": _pickle((("b", BackendConfig(num_replicas=3), ORIGIN, b"code"), {})),
    "declare-endpoints": _pickle(
        (([DeclaredEndpoint("e", "b", "/e", ("GET",), 2.0, {"b": 1.0}, {"b": 0.5}, ORIGIN)], ["f"]), {})
    ),
    "note-deployment": _pickle(((UNFINISHED,), {})),
    "differences": _pickle(((HTTP, True), {})),
    "configure": _pickle(((CONFIG,), {"reconfigure": True})),
    "move": _pickle(((CONTROLLER,), {})),
    "answer-status": _pickle((7, STATUS)),
    "answer-backends": _pickle((7, {"b": CONFIG})),
    "answer-unfinished": _pickle((7, UNFINISHED)),
    "answer-instance": _rays_pickle(INSTANCE, lambda found: found),
    # arguments of new processes
    "controller-arguments": _rays_pickle(
        (InstanceSpec("shop", "0a1b2c3d", "ray", "/run/i", True, "10.0.0.1", HTTP, "n1"), Key(SECRET)),
        lambda found: (found[0], _signed(found[1])),
    ),
    "replica-arguments": _rays_pickle(
        (
            ReplicaSpec("r-1", "b", INSTANCE.only(Role.EDGE, Role.PYTHON), "/run/i", "10.0.0.1", b"code", CONFIG),
            Key(SECRET).only(Role.EDGE, Role.PYTHON),
            "n1",
        ),
        lambda found: (
            msgspec.structs.replace(found[0].instance, secret=""),
            _signed(found[0].instance.key),
            found[0].config,
            _signed(found[1]),
            found[2],
        ),
    ),
    "proxy-arguments": _rays_pickle(
        (
            ProxySpec("proxy-1", "n1", "0a1b2c3d", CONTROLLER, "/run/i", "10.0.0.1", HTTP),
            Key(SECRET).only(Role.EDGE, Role.CONTROLLER),
            "n1",
        ),
        lambda found: (found[0], _signed(found[1]), found[2]),
    ),
    # data for later processes
    "checkpoint-3": Format(_write_checkpoint, _read_checkpoint, CHECKPOINT, is_stable=False),
    "code": Format(
        lambda: freeze_code(CODE, (1,), {"a": 2}),
        lambda data: _shown_code(thaw_code(data)),
        (("wsgi", "wsgiref.simple_server:demo_app", "wsgiref.simple_server"), (1,), {"a": 2}),
        is_stable=False,
    ),
    "state-1": Format(_write_state, _read_state, (CHECKPOINT.wanted.backends, CHECKPOINT.wanted.endpoints), False),
    "key-files": Format(
        _write_key_files,
        _read_key_files,
        (
            {
                "forward": Key(SECRET).of(Role.FORWARD),
                "call": Key(SECRET).of(Role.CALL),
                "manage": Key(SECRET).of(Role.MANAGE),
            },
            [bytes(32), SECRET],
        ),
    ),
    "instance-file": Format(
        lambda: msgspec.json.encode(INSTANCE), lambda data: msgspec.json.decode(data, type=Instance), INSTANCE
    ),
    "operation-names": Format(
        lambda: " ".join(Operation).encode(),
        lambda data: [name for name in data.decode().split() if name not in list(Operation)],
        [],
        is_stable=False,
    ),
}
