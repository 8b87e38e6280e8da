"""The edge behind TLS: the same server, the same limits, and certificates that are checked before anything starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import serve_bridge as serve
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.client_hello import protocols_offered
from serve_bridge.http_server.server import HttpServer
from tests.support.certificates import Certificate, make_certificate
from tests.support.edge_server import Running, answers, read_all, running, statuses, wait_until_refused
from tests.support.waiting import wait_until

MIB = 1024 * 1024
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SHORT = {f"{name}_timeout_s": 0.2 for name in ("header", "body", "write", "keep_alive")}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A good one."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def patient(certificate: Certificate) -> Iterator[Running]:
    """A server with the default limits and deadlines."""
    with running(tls=certificate.client, **certificate.options) as server:
        yield server


@pytest.fixture
def edge(patient: Running) -> Running:
    """The patient server, without memories."""
    patient.app.paths.clear()
    patient.app.left.clear()
    return patient


@pytest.fixture(scope="module")
def hasty(certificate: Certificate) -> Iterator[Running]:
    """A server with short deadlines."""
    with running(tls=certificate.client, **certificate.options, **SHORT) as server:
        yield server


def plain(edge: Running) -> socket.socket:
    """Connect without TLS."""
    client = socket.create_connection(edge.address)
    client.settimeout(10)
    return client


# What is served


def test_the_application_knows_that_it_is_https(edge: Running) -> None:
    """And the URL says so."""
    scope = json.loads(answers(edge.exchange(LAST))[0].body)
    assert scope["scheme"] == "https"
    assert edge.server.url == f"https://127.0.0.1:{edge.address[1]}"


def test_a_connection_is_kept_alive_and_answers_in_order(edge: Running) -> None:
    """As without TLS."""
    assert statuses(edge.exchange((GET + b"\r\n") * 100 + LAST)) == [200] * 101


@pytest.mark.parametrize("body", [b"x" * 100_000, b"x" * 5 * MIB], ids=["100 KB", "5 MiB"])
def test_a_body_goes_up_and_down(edge: Running, body: bytes) -> None:
    """Whole."""
    with edge.client() as client:
        client.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert answers(read_all(client))[0].body == body


def test_old_versions_of_tls_are_refused(edge: Running, certificate: Certificate) -> None:
    """Nothing below 1.2."""
    context = certificate.client
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with plain(edge) as client, pytest.raises(OSError):  # noqa: PT011 - an alert, or what OpenSSL itself refuses
        context.wrap_socket(client, server_hostname="localhost")


def test_a_websocket_echoes(edge: Running, certificate: Certificate) -> None:
    """Over wss."""
    with connect(f"wss://localhost:{edge.address[1]}/ws", ssl=certificate.client) as websocket:
        websocket.send("hello")
        assert websocket.recv(10) == "hello"


# What is refused


REFUSED: dict[str, tuple[bytes, int]] = {
    "H04 no Host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "H06 CL then TE": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + LAST, 400),
    "H12 chunk extension of 1 MB": (CHUNKED + b"1;" + b"a" * MIB, 400),
    "H21 2 MB without an end": (b"GET /" + b"a" * 2 * MIB, 414),
    "H22 header of 2 MB": (GET + b"A: " + b"b" * 2 * MIB, 431),
    "B05 declared and sent": (POST + b"Content-Length: 67108864\r\n\r\n" + b"x" * MIB, 413),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_and_the_connection_closed(edge: Running, data: bytes, status: int) -> None:
    """The answer arrives although the client is still sending, and nothing after it is served."""
    received = b""
    with edge.client() as client:
        with contextlib.suppress(ConnectionError):  # it may refuse before it has read everything
            client.sendall(data)
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):  # then the server waits for more, for seconds
            received += client.recv(65536)
    (answer,) = answers(received)
    assert (answer.status, answer.headers[b"connection"]) == (status, b"close")
    wait_until(lambda: not edge.server._state.connections)
    assert "/last" not in edge.app.paths


def test_a_refused_connection_closes_although_its_client_stays(edge: Running) -> None:
    """The client has some time to read the answer."""
    assert statuses(edge.exchange(REFUSED["H06 CL then TE"][0])) == [400]


def test_an_upload_that_nobody_reads_ends_after_the_answer(edge: Running) -> None:
    """What follows it is no request."""
    sent = GET + b"Content-Length: 16000000\r\n\r\n" + b"x" * 16_000_000
    assert statuses(edge.exchange(sent + LAST)) == [200]


def test_plain_http_is_closed(edge: Running, caplog: pytest.LogCaptureFixture) -> None:
    """It is no handshake; others are served, and the log stays quiet."""
    with plain(edge) as client:
        client.sendall(LAST)
        assert b"HTTP/1.1" not in read_all(client)
    assert statuses(edge.exchange(LAST)) == [200]
    assert not caplog.records


# Slow clients, and clients that leave


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a hello"])
def test_a_handshake_that_does_not_end_is_closed(hasty: Running, sent: bytes) -> None:
    """At the header deadline; there is no answer."""
    with plain(hasty) as client:
        client.sendall(sent)
        assert read_all(client) == b""


@pytest.mark.parametrize("path", [b"wait", b"endless"])
def test_a_client_that_leaves_is_noticed(certificate: Certificate, path: bytes) -> None:
    """The application is told, before its answer and within it."""
    with running(tls=certificate.client, **certificate.options) as edge:
        with edge.client() as client:
            client.sendall(b"GET /" + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert edge.app.started.wait(30)
        assert edge.app.left.wait(30)


def test_a_slow_client_gets_the_end_of_its_answer(certificate: Certificate) -> None:
    """However long the closing of TLS may take, what was written is not cut off before the client could take it."""
    body = b"x" * 12 * MIB
    with (
        running(tls=certificate.client, **certificate.options, keep_alive_timeout_s=1.5) as edge,
        edge.client() as client,
        edge.client() as clock,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        received = client.recv(1000)
        while len(received) < MIB:
            received += client.recv(16384)
        clock.sendall(GET + b"\r\n")
        read_all(clock)  # until the server closes it, which is later than the end of TLS may take
        received += read_all(client)
    assert answers(received)[0].body == body


def test_the_progress_of_a_client_never_goes_back(certificate: Certificate) -> None:
    """Whatever TLS and the transport below it hold, the count of received bytes only grows."""
    body = b"x" * 12 * MIB

    async def taken(edge: Running) -> int:
        (connection,) = edge.server._state.connections
        connection.queue.is_too_slow(0.0, 30.0)
        return int(connection.queue._taken)

    with running(tls=certificate.client, **certificate.options) as edge, edge.client() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        received = 0
        counts = [edge.call(taken(edge))]
        while received < len(body):
            received += len(client.recv(262144))
            counts.append(edge.call(taken(edge)))
    assert counts == sorted(counts)
    assert counts[-1] > 8 * MIB


# The limit, and the end


def test_a_failed_handshake_gives_its_place_back(certificate: Certificate) -> None:
    """At the header deadline."""
    options = {**certificate.options, "max_connections": 1, "header_timeout_s": 1}  # which holds for the second, too
    with running(tls=certificate.client, **options) as edge, plain(edge):
        assert statuses(edge.exchange(LAST)) == [200]


def test_drain_serves_a_request_that_crosses_with_it(certificate: Certificate) -> None:
    """And tells a WebSocket to come back."""
    with (
        running(tls=certificate.client, **certificate.options) as edge,
        edge.client() as client,
        connect(f"wss://localhost:{edge.address[1]}/ws", ssl=certificate.client) as websocket,
    ):
        client.sendall(GET + b"\r\n")
        client.recv(4096)
        draining = asyncio.run_coroutine_threadsafe(edge.server.drain(20, idle_grace_s=10), edge.loop)
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(10)
        client.sendall(GET + b"\r\n")
        (answer,) = answers(read_all(client))
        assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
        draining.result(20)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012


def test_drain_serves_a_handshake_that_is_under_way(certificate: Certificate) -> None:
    """It was accepted before the listener closed."""

    async def end(server: HttpServer) -> None:
        await server.drain(10, idle_grace_s=5)
        await server.stop()

    with running(tls=certificate.client, **certificate.options) as edge, plain(edge) as waiting:
        ending = asyncio.run_coroutine_threadsafe(end(edge.server), edge.loop)
        wait_until_refused(edge)
        with certificate.client.wrap_socket(waiting, server_hostname="localhost") as client:
            client.sendall(GET + b"\r\n")
            assert statuses(read_all(client)) == [200]
        ending.result(20)


# Protocols


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["localhost", None])
@pytest.mark.parametrize("offered", [["h2"], ["h3", "h2", "http/1.0"], ["http/1.1x"]])
def test_a_client_that_offers_other_protocols_only_is_refused_in_the_handshake(
    edge: Running, certificate: Certificate, version: ssl.TLSVersion, name: str | None, offered: list[str]
) -> None:
    """It would speak HTTP/2 otherwise; it gets the alert that says why, with a server name or without."""
    context = certificate.client
    context.minimum_version = context.maximum_version = version
    context.check_hostname = False
    context.set_alpn_protocols(offered)
    with plain(edge) as connection, pytest.raises(ssl.SSLError) as caught:
        context.wrap_socket(connection, server_hostname=name)
    assert "no application protocol" in str(caught.value).replace("_", " ").lower()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), ([], None)]
)
def test_http_1_1_is_chosen_where_it_is_offered(
    edge: Running, certificate: Certificate, version: ssl.TLSVersion, offered: list[str], chosen: str | None
) -> None:
    """Also if the client would rather have another; a client that offers nothing is served too."""
    context = certificate.client
    context.minimum_version = context.maximum_version = version
    if offered:
        context.set_alpn_protocols(offered)
    with context.wrap_socket(plain(edge), server_hostname="localhost") as client:
        assert client.selected_alpn_protocol() == chosen
        client.sendall(LAST)
        assert statuses(read_all(client)) == [200]


def hello_of(offered: list[str]) -> bytes:
    """The ClientHello of Python's client."""
    context = ssl.create_default_context()
    if offered:
        context.set_alpn_protocols(offered)
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()[5:]  # without the header of the record


@pytest.mark.parametrize("offered", [["h2"], ["h2", "http/1.1"], []])
def test_the_protocols_of_a_hello_are_read(offered: list[str]) -> None:
    """From any place of it; one that is cut or malformed offers none, and OpenSSL refuses it."""
    hello = hello_of(offered)
    assert protocols_offered(hello) == ([name.encode() for name in offered] or None)
    for cut in range(len(hello)):
        protocols_offered(hello[:cut])
        protocols_offered(hello[:cut] + b"\xff" * 8 + hello[cut:])


# Certificates


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, runtime_directory: Path, mode: int) -> None:
    """With the way out, and before anything starts."""
    made = make_certificate(tmp_path)
    made.key.chmod(mode)
    with pytest.raises(serve.ConfigError, match=f"chmod 600 {made.key}"):
        serve.start(runtime="local", name="tls-open", http_options={"port": 0, **made.options})


def test_a_key_in_the_file_of_its_certificate_is_a_secret_too(tmp_path: Path, runtime_directory: Path) -> None:
    """A certificate alone is not."""
    made = make_certificate(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    both.chmod(0o644)
    with pytest.raises(serve.ConfigError, match=f"ssl_certfile.*chmod 600 {both}"):
        serve.start(runtime="local", name="tls-open", http_options={"port": 0, "ssl_certfile": str(both)})


def wrong(directory: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Options that cannot work, and the file that each message must name."""
    good, other = make_certificate(directory), make_certificate(directory, "other")
    old = make_certificate(directory, "old", days=(-30, -1))
    early = make_certificate(directory, "early", days=(1, 30))
    text = directory / "text"
    text.write_text("no PEM")
    missing = str(directory / "missing")
    locked = good.encrypted_key("secret word")
    return {
        "no certificate": ({**good.options, "ssl_certfile": missing}, missing),
        "no key": ({**good.options, "ssl_keyfile": missing}, missing),
        "a directory": ({**good.options, "ssl_certfile": str(directory)}, str(directory)),
        "no PEM": ({**good.options, "ssl_certfile": str(text)}, str(text)),
        "a key that is no PEM": ({**good.options, "ssl_keyfile": str(text)}, str(text)),
        "no key in the certificate's file": ({"ssl_certfile": str(good.certificate)}, str(good.certificate)),
        "another's key": ({**good.options, "ssl_keyfile": str(other.key)}, str(other.key)),
        "expired": (old.options, str(old.certificate)),
        "not valid yet": (early.options, str(early.certificate)),
        "no password": ({**good.options, "ssl_keyfile": str(locked)}, str(locked)),
        "wrong password": (
            {**good.options, "ssl_keyfile": str(locked), "ssl_keyfile_password": "secret wort"},
            str(locked),
        ),
        "no authorities": ({**good.options, "ssl_ca_certs": missing}, missing),
    }


CASES = [
    "no certificate",
    "no key",
    "a directory",
    "no PEM",
    "a key that is no PEM",
    "no key in the certificate's file",
    "another's key",
    "expired",
    "not valid yet",
    "no password",
    "wrong password",
    "no authorities",
]


@pytest.mark.parametrize("case", CASES)
def test_files_that_cannot_work_are_named_before_anything_starts(
    tmp_path: Path, runtime_directory: Path, case: str
) -> None:
    """F10: in the caller, and without the password."""
    options, named = wrong(tmp_path)[case]
    with pytest.raises(serve.ConfigError) as caught:
        serve.start(runtime="local", name="tls-wrong", http_options={"port": 0, **options})
    assert repr(named) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_command_line_names_them_too(tmp_path: Path) -> None:
    """F10: before it looks for a cluster."""
    command = [str(Path(sys.executable).with_name("serve-bridge")), "start", "--ssl-certfile", "missing.crt"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert str(tmp_path / "missing.crt") in ran.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(certificate: Certificate, tmp_path: Path) -> None:
    """F10: unreadable."""
    key = tmp_path / "closed.key"
    key.write_bytes(certificate.key.read_bytes())
    key.chmod(0)
    with pytest.raises(serve.ConfigError, match=str(key)):
        serve.start(runtime="local", name="tls", http_options={**certificate.options, "ssl_keyfile": str(key)})


def test_a_proxy_that_is_started_again_serves_with_an_old_certificate(tmp_path: Path) -> None:
    """It says so to whoever starts an instance, and is better than nothing in the night."""
    old = make_certificate(tmp_path, days=(-30, -1))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with running(tls=context, **old.options) as edge:
        assert statuses(edge.exchange(LAST)) == [200]


def shown_by(edge: Running) -> bytes:
    """The certificate that the server shows to a new connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(plain(edge), server_hostname="localhost") as client:
        found = client.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_a_renewed_certificate_is_shown_to_the_connections_that_follow(tmp_path: Path) -> None:
    """A half-renewed pair is left alone; open connections go on."""
    first = make_certificate(tmp_path)
    with running(tls=first.client, **first.options) as edge, edge.client() as client:

        def renewed() -> bytes:
            done = threading.Event()
            edge.loop.call_soon_threadsafe(lambda: (edge.server.renew_certificate(), done.set()))
            assert done.wait(20)
            return shown_by(edge)

        client.sendall(GET + b"\r\n")
        assert client.recv(65536)
        old = renewed()
        second = make_certificate(tmp_path, "second")
        first.certificate.write_bytes(second.certificate.read_bytes())
        assert renewed() == old
        first.key.write_bytes(second.key.read_bytes())
        new = renewed()
        assert new != old
        first.key.unlink()
        assert renewed() == new
        client.sendall(LAST)
        assert statuses(read_all(client)) == [200]


@pytest.mark.parametrize("name", ["ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"])
def test_options_of_tls_need_a_certificate(name: str) -> None:
    """Without it they would do nothing, in silence."""
    with pytest.raises(serve.ConfigError, match=f"{name} needs ssl_certfile"):
        HTTPOptions(**{name: "x"})


@pytest.mark.parametrize("value", [5, "", "a\0b", True])
def test_a_path_that_is_none_is_refused(value: Any) -> None:
    """By name."""
    with pytest.raises(serve.ConfigError, match="ssl_certfile"):
        HTTPOptions(ssl_certfile=value)


def test_the_password_is_in_no_repr(certificate: Certificate) -> None:
    """Nor in the error about one that is no str."""
    options = HTTPOptions(**certificate.options, ssl_keyfile_password="secret word")
    assert "secret word" not in repr(options)
    with pytest.raises(serve.ConfigError) as caught:
        HTTPOptions(**certificate.options, ssl_keyfile_password=b"secret word")  # type: ignore[arg-type]
    assert "secret word" not in str(caught.value)


def test_an_encrypted_key_works_with_its_password(certificate: Certificate) -> None:
    """Nobody is asked on a terminal."""
    options = {**certificate.options, "ssl_keyfile": certificate.encrypted_key("secret word")}
    with running(tls=certificate.client, ssl_keyfile_password="secret word", **options) as edge:
        assert statuses(edge.exchange(LAST)) == [200]


def test_paths_are_those_of_the_caller(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative one is looked up where the options were built, since proxies run elsewhere."""
    monkeypatch.chdir(certificate.certificate.parent)
    options = HTTPOptions(ssl_certfile=certificate.certificate.name)
    monkeypatch.chdir(tmp_path)
    assert options.ssl_certfile == str(certificate.certificate)


def test_clients_may_have_to_show_a_certificate(certificate: Certificate, tmp_path: Path) -> None:
    """With `ssl_ca_certs` only those are served whose certificate it has signed."""
    known = make_certificate(tmp_path, "client")
    authorities = tmp_path / "authorities"
    known.authority.cert_pem.write_to_path(str(authorities))
    context = certificate.client
    context.load_cert_chain(known.certificate, known.key)
    with running(tls=context, **certificate.options, ssl_ca_certs=authorities) as edge:
        assert statuses(edge.exchange(LAST)) == [200]
        with (
            contextlib.suppress(OSError),
            certificate.client.wrap_socket(plain(edge), server_hostname="localhost") as stranger,
        ):
            stranger.sendall(LAST)
            assert read_all(stranger) == b""
