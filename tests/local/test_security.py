"""Claims of docs/security.md about a whole instance."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.wire.handshake import Handshake, identity
from serve_bridge.wire.keys import Role
from tests.support.listening_engine import port_of
from tests.support.programs import run_program

WEB_PROCESS = """
    import os, sys
    sys.modules["ray"] = None  # an import of Ray fails
    assert not any(value for name, value in os.environ.items() if name.startswith("RAY_"))
    import httpx
    import serve_bridge as serve
    from flask import Flask
    from serve_bridge.adapters.flask import ServeBridge
    app = Flask("web")
    bridge = ServeBridge(app)
    app.add_url_rule("/twice", view_func=bridge.view("twice"), methods=["POST"])
    answer = app.test_client().post("/twice", json=21)
    client = serve.connect()
    print(answer.status_code, answer.text.strip(), client.get_handle("twice", missing_ok=True).call(21))
    try:
        client.status()
    except serve.NotAllowed:
        print("no operations")
"""

OTHER_USER = """
    import os, socket, sys
    directory, name, user, hello = sys.argv[1:]
    os.chdir(directory)
    os.setuid(int(user))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(name)
        try:
            peer.sendall(bytes.fromhex(hello))
            print(len(peer.recv(64)))
        except ConnectionError:
            print(0)
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the key files."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def listeners_before() -> set[int]:
    """The ports at which this process listened before the instance."""
    return ports_of_this_process()


@pytest.fixture(scope="module")
def client(keys: Path, listeners_before: set[int]) -> Iterator[serve.Client]:
    """An instance with ports for other hosts."""
    client = serve.start(
        runtime="local",
        name="secured",
        listen="127.0.0.1:0",
        key_file=str(keys / "secret"),
        http_options={"port": 0},
    )

    async def twice(request: serve.ServeRequest) -> int:
        return 2 * (request.data if isinstance(request.data, int) else await request.json())

    client.create_backend("twice", twice)
    client.create_endpoint("twice", backend="twice", route="/twice", methods=["POST"])
    yield client
    client.shutdown()


def ports_of_this_process() -> set[int]:
    """Return the TCP ports at which this process listens."""
    found = psutil.Process().net_connections("tcp")
    return {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}


def test_a_web_process_needs_neither_ray_nor_its_token(client: serve.Client, keys: Path, tmp_path: Path) -> None:
    """Two variables are enough to forward a request and to call; operations need another key."""
    environment = {
        "SERVE_BRIDGE_ADDRESS": f"serve-bridge://127.0.0.1:{port_of(client)}/secured",
        "SERVE_BRIDGE_KEY_FILE": str(keys / "secured.forward.key"),
        "XDG_RUNTIME_DIR": str(tmp_path),
        **{name: "" for name in os.environ if name.startswith("RAY_")},
    }
    assert run_program(WEB_PROCESS, environment=environment).splitlines() == ["200 42 42", "no operations"]


@pytest.mark.parametrize(
    "said", [bytes(64), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", os.urandom(200)], ids=["0", "http", "random"]
)
def test_every_socket_refuses_a_stranger(client: serve.Client, listeners_before: set[int], said: bytes) -> None:
    """All but the port of HTTP and the socket of the port keeper close without an answer."""
    http = {urlsplit(url).port for url in client.http_urls}
    ports = ports_of_this_process() - listeners_before - http
    sockets = Path(link_of(client).instance.directory).glob("*.sock")
    files = [path for path in sockets if not path.name.startswith("port-")]
    assert len(ports) >= 2  # the controller and the replica
    assert len(files) >= 3  # these and the proxy
    for where in [*(("127.0.0.1", port) for port in ports), *map(str, files)]:
        with socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET) as stranger:
            stranger.settimeout(30)
            stranger.connect(where)
            try:
                stranger.sendall(said)
                assert stranger.recv(100) == b""
            except ConnectionError:
                continue


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("user", "answered"), [(0, True), (65534, False)])
def test_every_unix_socket_refuses_another_user(client: serve.Client, user: int, answered: bool) -> None:
    """It answers no correct hello of theirs, even if the modes of the files let them connect."""
    instance, table = link_of(client).instance, link_of(client).routing_table()
    assert table is not None
    replicas = [replica for backend in table.backends.values() for replica in backend.replicas]
    places = [instance.controller, *replicas, *table.proxies]
    assert len(places) == 3
    for place in places:
        file = Path(place.unix)
        hello = Handshake(instance.key, Role.PYTHON, identity(instance.generation, place.name), caller=True).start()
        file.parent.chmod(0o711)
        file.chmod(0o666)
        try:
            printed = run_program(OTHER_USER, str(file.parent), file.name, str(user), hello.hex())
        finally:
            file.chmod(0o600)
            file.parent.chmod(0o700)
        assert (int(printed) > 0) is answered, place.name
