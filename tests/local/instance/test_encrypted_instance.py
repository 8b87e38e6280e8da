"""An instance with TLS, and a web host that reaches it with variables only."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.requests import Request

import serve_bridge as serve
from serve_bridge.adapters import Bridge, ForwardedRoute
from serve_bridge.client.client import find_client, link_of
from serve_bridge.client.key_changes import retire_keys, rotate_keys
from serve_bridge.config.tls import Tls
from serve_bridge.instance.tls_files import ENDINGS, PREFIX, VARIABLES, warn_if_readable
from tests.support.certificates import make_tls
from tests.support.listening import free_port
from tests.support.listening_engine import port_of, remove_sockets, start_listening
from tests.support.programs import ROOT, run_program
from tests.support.waiting import wait_until

NAME = "tls"
LARGE = bytes(range(256)) * (10 << 12)
"""10 MiB."""
MOST_S = 5.0
"""Upper limit for a refusal, in seconds."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the keys and the certificates."""
    directory = tmp_path_factory.mktemp("files")
    directory.chmod(0o700)
    return directory


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The team's own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def files(directory: Path, authority: trustme.CA) -> Tls:
    """The files of the engine."""
    return make_tls(directory, "engine", authority, f"serve-bridge://{NAME}/engine")


def options_of(files: Tls) -> dict[str, Any]:
    """Return the options of `start`."""
    return {"tls_cert": files.cert, "tls_key": files.key, "tls_ca": files.ca}


async def size(request: serve.ServeRequest | Request) -> bytes:
    """Return how much was uploaded, and its begin."""
    body = await request.body()
    return str(len(body)).encode() + body[:5]


def start(directory: Path, port: int, **options: Any) -> serve.Client:
    """Start an instance with two backends, and remove its unix sockets, as on another host."""
    client = start_listening(NAME, directory, port, **options)
    client.create_backend("size", size)
    client.create_endpoint("size", backend="size", route="/size", methods=["POST"])
    client.create_backend("echo", lambda request: request.data)
    client.create_endpoint("echo", backend="echo")
    remove_sockets(client)
    return client


@pytest.fixture(scope="module")
def engine(directory: Path, files: Tls) -> Iterator[serve.Client]:
    """An instance with TLS."""
    client = start(directory, free_port(), **options_of(files))
    yield client
    client.shutdown()


@pytest.fixture(scope="module")
def port(engine: serve.Client) -> int:
    """The port of the instance."""
    return port_of(engine)


def variables(port: int, directory: Path, own: Tls | None) -> dict[str, str]:
    """Return the variables of a web host."""
    found = {
        "SERVE_BRIDGE_ADDRESS": f"serve-bridge://127.0.0.1:{port}/{NAME}",
        "SERVE_BRIDGE_KEY_FILE": str(directory / f"{NAME}.call.key"),
    }
    return found if own is None else {**found, **dict(zip(VARIABLES, own[:3], strict=True))}


@pytest.fixture
def web(directory: Path, authority: trustme.CA) -> Tls:
    """The files of a web host, whose certificate limits it to calls."""
    return make_tls(directory, "web", authority, f"serve-bridge://{NAME}/call")


@pytest.fixture
def web_host(monkeypatch: pytest.MonkeyPatch, port: int, directory: Path, web: Tls, tmp_path: Path) -> str:
    """Make this process a web host; return the address."""
    found = variables(port, directory, web)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return found["SERVE_BRIDGE_ADDRESS"]


def test_a_web_host_needs_variables_only(port: int, directory: Path, web: Tls, tmp_path: Path) -> None:
    """A process without any file of the instance calls it."""
    program = "import serve_bridge as serve\nprint(serve.connect().get_handle('echo', missing_ok=True).call(21))"
    environment = {**variables(port, directory, web), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert run_program(program, environment=environment) == "21\n"


@pytest.fixture
def beside(port: int, directory: Path, web: Tls, tmp_path: Path) -> dict[str, str]:
    """The two variables of a web host whose files for TLS are beside its key file."""
    for source, name in ((directory / f"{NAME}.call.key", "own.key"), *zip(web[:3], ENDINGS, strict=True)):
        target = tmp_path / (name if name == "own.key" else f"{NAME}.{name}")
        target.touch(0o600)
        target.write_bytes(Path(source).read_bytes())
    return {**variables(port, directory, None), "SERVE_BRIDGE_KEY_FILE": str(tmp_path / "own.key")}


def test_two_variables_are_enough_if_the_certificate_is_beside_the_key_file(
    beside: dict[str, str], tmp_path: Path
) -> None:
    """The names of its files begin with the name of the instance."""
    program = "import serve_bridge as serve\nprint(serve.connect().get_handle('echo', missing_ok=True).call(21))"
    assert run_program(program, environment={**beside, "XDG_RUNTIME_DIR": str(tmp_path)}) == "21\n"


def test_the_page_names_the_files_beside_the_key_file() -> None:
    """By these names a web host finds them."""
    page = (ROOT / "docs" / "several-machines.md").read_text()
    assert [ending for ending in ENDINGS if f"/etc/shop/shop.{ending}" not in page] == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_lacks_beside_the_key_file_is_named(
    ending: str, beside: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent without TLS."""
    for name, value in beside.items():
        monkeypatch.setenv(name, value)
    lacking = tmp_path / f"{NAME}.{ending}"
    lacking.unlink()
    assert f"there is no file {lacking}" in refused(beside["SERVE_BRIDGE_ADDRESS"])


def test_large_values_arrive_whole_in_both_directions(web_host: str) -> None:
    """With blocking and with awaited calls."""
    client = find_client(None, NAME)
    handle = client.get_handle("echo", missing_ok=True)

    async def awaited() -> object:
        return await handle.acall(LARGE)

    assert handle.call(LARGE) == LARGE
    assert asyncio.run(awaited()) == LARGE
    client.close()


def test_a_large_upload_is_forwarded(web_host: str) -> None:
    """A worker forwards it from a blocking thread."""
    bridge = Bridge()
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "http_version": "1.1"}
    answer = bridge.ask(ForwardedRoute("size"), scope, {}, LARGE, None)
    assert (answer.status, answer.body) == (200, str(len(LARGE)).encode() + LARGE[:5])
    bridge.close()


def test_a_copied_file_of_the_instance_uses_the_certificate_of_its_host(
    web_host: str, engine: serve.Client, directory: Path, authority: trustme.CA, tmp_path: Path
) -> None:
    """The paths in the file are those of another host, and the whole secret needs a certificate of the engine."""
    own = make_tls(directory, "web", authority)
    copy = tmp_path / "copied.json"
    copy.touch(0o600)
    copy.write_bytes(Path(link_of(engine).instance.address).read_bytes().replace(b"engine.crt", b"none.crt"))
    client = find_client(str(copy), NAME)
    assert link_of(client).instance.tls == own._replace(prefix=PREFIX)
    assert client.get_handle("echo", missing_ok=True).call(1) == 1
    client.close()


def test_keys_are_replaced_over_tls(
    engine: serve.Client, directory: Path, port: int, web: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After new keys, the engine still uses TLS."""
    # The commands for keys run beside the controller, whose socket `start` has removed; it makes that again.
    wait_until(Path(link_of(engine).instance.controller.unix).exists)
    for change in (rotate_keys, retire_keys):
        assert change(NAME, str(directory / "secret"), None) == (str(directory), True)
    for name, value in variables(port, directory, web).items():
        monkeypatch.setenv(name, value)
    client = find_client(None, NAME)
    handle = client.get_handle("echo", missing_ok=True)
    assert (handle.call(1), asyncio.run(handle.acall(2))) == (1, 2)
    client.close()


def refused(address: str) -> str:
    """Return why *address* cannot be used; the reason is one line, within `MOST_S`."""
    began = time.monotonic()
    with pytest.raises((serve.NotConnected, serve.ConfigError)) as caught:
        find_client(address, NAME)
    assert time.monotonic() - began < MOST_S
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_web_host_without_a_certificate_is_told_what_to_set(web_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener tells that it speaks TLS."""
    for name in VARIABLES:
        monkeypatch.delenv(name)
    assert refused(web_host) == (
        f"no encrypted connection with the instance at {web_host}: the peer speaks TLS only; set "
        "SERVE_BRIDGE_TLS_CERT, SERVE_BRIDGE_TLS_KEY and SERVE_BRIDGE_TLS_CA"
    )


def test_an_incomplete_setting_is_named(web_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three variables are needed."""
    monkeypatch.delenv("SERVE_BRIDGE_TLS_CA")
    assert "SERVE_BRIDGE_TLS_CA is not set" in refused(web_host)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_file_that_lacks_is_named(name: str, web_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its variable."""
    monkeypatch.setenv(name, "/nowhere/file.pem")
    assert f"{name} '/nowhere/file.pem': No such file or directory" in refused(web_host)


def test_a_foreign_certificate_is_named(web_host: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another authority has signed it."""
    foreign = make_tls(directory, "foreign", trustme.CA())
    monkeypatch.setenv("SERVE_BRIDGE_TLS_CERT", foreign.cert)
    monkeypatch.setenv("SERVE_BRIDGE_TLS_KEY", foreign.key)
    text = refused(web_host)
    assert f"the peer refuses the certificate SERVE_BRIDGE_TLS_CERT={foreign.cert}: another authority" in text


def test_a_certificate_with_a_weaker_role_than_the_key_is_refused(
    web_host: str, directory: Path, authority: trustme.CA
) -> None:
    """The files are read again, so the next connection uses the new certificate."""
    make_tls(directory, "web", authority, f"serve-bridge://{NAME}/forward")
    assert "the URI in the certificate of this process does not allow the role of its key" in refused(web_host)


def test_an_instance_without_tls_is_named(directory: Path, web: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web host with certificates does not send bodies in the clear."""
    port = free_port()
    found = variables(port, directory, web)
    client = start_listening("plain", directory, port)
    try:
        for name, value in {**found, "SERVE_BRIDGE_KEY_FILE": str(directory / "plain.call.key")}.items():
            monkeypatch.setenv(name, value)
        assert "the peer listens without TLS" in refused(f"serve-bridge://127.0.0.1:{port}/plain")
    finally:
        client.shutdown()


def test_start_refuses_files_that_cannot_be_used(directory: Path, authority: trustme.CA) -> None:
    """Before anything is started."""
    old = make_tls(directory, "old", authority, days=(-3, -1))
    with pytest.raises(serve.ConfigError, match=r"tls_cert '.*old.crt': certificate has expired"):
        serve.start(runtime="local", name="old", listen=f"127.0.0.1:{free_port()}", **options_of(old))


@pytest.mark.parametrize(
    ("host", "encrypted", "warned"),
    [("10.0.0.5", False, True), ("10.0.0.5", True, False), ("127.0.0.1", False, False), (None, False, False)],
)
def test_start_warns_of_readable_bodies(
    host: str | None, encrypted: bool, warned: bool, files: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, where other hosts can reach the instance."""
    with caplog.at_level(logging.WARNING, logger="serve_bridge"):
        warn_if_readable(NAME, host, files if encrypted else None)
    texts = [record.getMessage() for record in caplog.records if record.name == "serve_bridge"]
    assert len(texts) == warned
    assert all("listens on 10.0.0.5 without TLS, so bodies travel readable" in text for text in texts)
