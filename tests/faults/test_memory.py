"""Long bodies pass: no process on their way keeps more of them than its buffers hold, up or down, nor for long."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import psutil
import pytest
from starlette.responses import FileResponse, StreamingResponse

import serve_bridge as serve
from tests.faults.conftest import LONG_ONLY, actors, scaled
from tests.faults.support.fronts import FRONTS, running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults]

MIB: Final = 1024 * 1024
SIZE: Final = scaled(100) * MIB
WARM: Final = 8 * MIB
GROWTH: Final = 32 * MIB
PIECE: Final = b"0123456789abcdef" * 4096
TIMEOUT_S: Final = 300.0


def pieces(size: int) -> Iterator[bytes]:
    """Yield *size* bytes."""
    for _ in range(size // len(PIECE)):
        yield PIECE


async def async_pieces(size: int) -> AsyncIterator[bytes]:
    """Yield *size* bytes."""
    for piece in pieces(size):
        yield piece


class Transfer:
    """Takes as much as it is sent, and answers with as much as it is asked for."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    async def __call__(self, request: Any) -> Any:
        """Answer in the way that the query names."""
        if request.method == "POST" and "whole" in request.query_params:
            return {"size": len(await request.body())}
        if request.method == "POST":
            return {"size": sum([len(chunk) async for chunk in request.stream()])}
        way, size = request.query_params["way"], int(request.query_params["size"])
        return self._answer(way, size)

    def _answer(self, way: str, size: int) -> Any:
        if way == "generator":
            return pieces(size)
        if way == "async generator":
            return async_pieces(size)
        if way == "response":
            return StreamingResponse(async_pieces(size))
        if way == "def response":
            return StreamingResponse(pieces(size))
        if way == "bytes":
            return bytes(size)
        file = self._directory / f"{size}"
        with file.open("wb") as empty:
            empty.truncate(size)
        return FileResponse(file)


DOWN: Final = ("generator", "async generator", "response", "def response", "file")


@pytest.fixture(scope="module")
def instance(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Client]:
    """An instance on Ray that takes long bodies."""
    options = {"port": 0, "max_body_bytes": 2 * SIZE, "request_timeout_s": TIMEOUT_S}
    client = serve.start(name="memory", http_options=options)
    client.create_backend("transfer", Transfer, str(tmp_path_factory.mktemp("files")))
    client.create_endpoint("transfer", backend="transfer", route="/transfer", methods=["GET", "POST"])
    yield client
    client.shutdown()
    wait_until(lambda: not actors())


class Peaks:
    """How much each process has grown since this was made, at most."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._before = {}
        for process in processes:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # begins its peak anew
            self._before[process] = _status(process, "VmRSS")

    def grown(self) -> Mapping[str, int]:
        """Return by how many bytes, by process."""
        return {
            f"{process.pid} {' '.join(process.cmdline())[:40]}": _status(process, "VmHWM") - before
            for process, before in self._before.items()
        }


def _status(process: psutil.Process, name: str) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


class Client:
    """Sends and receives long bodies, and keeps none of them."""

    def __init__(self, url: str, target: str) -> None:
        self._address = urlsplit(url)
        self._target = target
        self._buffer = bytearray(MIB)

    def upload(self, size: int) -> bytes:
        """Send *size* bytes; return the answer, head and all."""
        with self._ask("POST", self._target, f"Content-Length: {size}") as connection:
            for piece in pieces(size):
                connection.sendall(piece)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def download(self, way: str, size: int) -> int:
        """Return how many bytes come, head, chunk sizes and all."""
        target = f"{self._target}?{urlencode({'way': way, 'size': size})}"
        with self._ask("GET", target) as connection:
            received = 0
            while count := connection.recv_into(self._buffer):
                received += count
        return received

    def _ask(self, method: str, target: str, *headers: str) -> socket.socket:
        where = (self._address.hostname or "", self._address.port or 80)
        connection = socket.create_connection(where, timeout=TIMEOUT_S)
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection


def check_uploads(client: Client, processes: Sequence[psutil.Process]) -> None:
    """Assert that an upload arrives whole and nobody keeps it."""
    client.upload(WARM)
    peaks = Peaks(processes)
    assert client.upload(SIZE).endswith(b'{"size":%d}' % SIZE)
    check(peaks)


def check_downloads(client: Client, ways: Sequence[str], processes: Sequence[psutil.Process]) -> None:
    """Assert that answers of all *ways* arrive whole and nobody keeps them."""
    for way in ways:
        client.download(way, WARM)
    peaks = Peaks(processes)
    for way in ways:
        assert SIZE <= client.download(way, SIZE) <= SIZE * 1.01
    check(peaks)


def check(peaks: Peaks) -> None:
    """Assert that nobody has grown by more than buffers."""
    grown = peaks.grown()
    assert max(grown.values()) < GROWTH, grown


@pytest.fixture
def proxy(instance: serve.Client) -> Client:
    """A client of the proxy."""
    return Client(instance.http_urls[0], "/transfer")


def test_a_long_upload_through_the_proxy_is_kept_nowhere(proxy: Client) -> None:
    """It is read as it comes."""
    check_uploads(proxy, actors())


@pytest.mark.parametrize("way", DOWN)
def test_a_long_answer_through_the_proxy_is_kept_nowhere(proxy: Client, way: str) -> None:
    """However user code makes it."""
    check_downloads(proxy, [way], actors())


def test_long_bytes_are_kept_by_user_code_alone(proxy: Client) -> None:
    """U11: user code has made them, and so holds them; the proxy passes them on in pieces."""
    check_downloads(proxy, ["bytes"], actors("Proxy"))


def test_memory_kept_for_the_next_body_goes_back_when_none_comes(instance: serve.Client) -> None:
    """A replica that has read a body whole gives back what it took: the body, and the pieces it came in."""
    (replica,) = actors("Replica")
    Path(f"/proc/{replica.pid}/clear_refs").write_text("5")  # begins its peak anew
    assert Client(instance.http_urls[0], "/transfer?whole").upload(WARM).endswith(b'{"size":%d}' % WARM)
    wait_until(lambda: _status(replica, "VmRSS") < _status(replica, "VmHWM") - WARM)


@pytest.fixture(
    scope="module",
    params=["flask", "starlette", *(pytest.param(name, marks=LONG_ONLY) for name in ("django", "django-asgi"))],
)
def front(
    request: pytest.FixtureRequest, instance: serve.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Callable[[], list[psutil.Process]]]]:
    """A client of an app under its web server, all of whose workers have forwarded; and what lists its processes."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running(request.param, instance, log, f"way=response&size={WARM}") as server:
        target = FRONTS[request.param].route
        yield Client(server.url, target), lambda: [psutil.Process(pid) for pid in server.family()]


def test_a_long_upload_through_an_app_is_kept_nowhere(front: Any) -> None:
    """Django under ASGI keeps it on disk."""
    client, processes = front
    check_uploads(client, [*processes(), *actors()])


def test_a_long_answer_through_an_app_is_kept_nowhere(front: Any) -> None:
    """It is passed on as it comes."""
    client, processes = front
    check_downloads(client, ["def response", "file"], [*processes(), *actors()])
