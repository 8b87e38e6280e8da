"""WebSockets at the proxy, byte by byte: handshakes, frames that break the rules, floods and clients that do nothing.

Each row is one client's fault; an open WebSocket beside it goes on as if nothing had been.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import h11
import psutil
import pytest
from starlette.types import Receive, Send

from tests.support.edge_server import answers, wait_until_refused
from tests.support.edge_server import running as edge_running
from tests.support.raw_websocket import (
    BINARY,
    CLOSE,
    DEFLATE,
    FIELDS,
    KEY,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    close_frame,
    frame,
    handshake,
)
from tests.support.waiting import wait_until
from tests.support.websocket_proxy import MIB, Proxy, running

LIMIT = 16 * MIB


@pytest.fixture(scope="module")
def shared() -> Iterator[Proxy]:
    """A proxy with the default limits."""
    with running() as (_, proxy):
        yield proxy


@pytest.fixture
def proxy(shared: Proxy) -> Iterator[Proxy]:
    """The same, and proof that a neighbour has noticed nothing."""
    yield shared
    shared.check_neighbour()


# The handshake (W01, W12)


def without(name: bytes) -> tuple[bytes, ...]:
    """Return the fields of a handshake but for one."""
    return tuple(field for field in FIELDS if not field.startswith(name + b":"))


HANDSHAKES: dict[str, tuple[bytes, int]] = {
    "as it should be": (handshake("/echo"), 101),
    "absolute form": (handshake("/echo", line=b"GET http://localhost%b HTTP/1.1"), 101),
    "large cookie": (handshake("/echo", b"Cookie: " + b"c" * 20_000), 101),
    "body of no bytes": (handshake("/echo", b"Content-Length: 0"), 101),
    "W01 no key": (handshake("/echo", fields=without(b"Sec-WebSocket-Key")), 400),
    "W01 two keys": (handshake("/echo", KEY), 400),
    "W01 short key": (handshake("/echo", b"Sec-WebSocket-Key: AAAA", fields=without(b"Sec-WebSocket-Key")), 400),
    "W01 POST": (handshake("/echo", line=b"POST %b HTTP/1.1"), 400),
    "W01 HTTP/1.0": (handshake("/echo", line=b"GET %b HTTP/1.0"), 400),
    "W01 version 12": (
        handshake("/echo", b"Sec-WebSocket-Version: 12", fields=without(b"Sec-WebSocket-Version")),
        426,
    ),
    "W01 no version": (handshake("/echo", fields=without(b"Sec-WebSocket-Version")), 426),
    "W01 two versions": (handshake("/echo", b"Sec-WebSocket-Version: 13"), 426),
    "body": (handshake("/echo", b"Content-Length: 5") + b"hello", 400),
    "chunked body": (handshake("/echo", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "malformed extensions": (handshake("/echo", b"Sec-WebSocket-Extensions: ;;"), 400),
    "malformed subprotocols": (handshake("/echo", b"Sec-WebSocket-Protocol: a b"), 400),
    "many subprotocols": (handshake("/echo", b"Sec-WebSocket-Protocol: " + b"a, " * 90 + b"a"), 101),
    "too many subprotocols": (handshake("/echo", b"Sec-WebSocket-Protocol: " + b"a," * 20_000 + b"a"), 431),
    "too many extensions": (handshake("/echo", b"Sec-WebSocket-Extensions: " + b"a," * 20_000 + b"a"), 431),
    "too many parameters": (handshake("/echo", b"Sec-WebSocket-Extensions: a" + b";b" * 20_000), 431),
    "too many escapes": (handshake("/echo", b'Sec-WebSocket-Extensions: a; b="' + b"\\a" * 20_000 + b'"'), 431),
    "too many options": (handshake("/echo", b"Connection: " + b"a," * 20_000 + b"a"), 431),
    "no such route": (handshake("/nothing"), 404),
    "too many headers": (handshake("/echo", *[b"X-%d: 1" % number for number in range(101)]), 431),
}


@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_handshake_is_answered_by_what_is_wrong_with_it(proxy: Proxy, name: str) -> None:
    """At once; a client of another version learns which one is spoken. An answer that denies ends the connection."""
    request, status = HANDSHAKES[name]
    with proxy.client() as client:
        client.send(request)
        head = client.head()
        assert int(head.split(b" ")[1]) == status
        assert (b"sec-websocket-version: 13" in head.lower()) is (status == 426)
        if status != 101:
            client.rest()


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (handshake("/echo", b"Expect: more"), [b"200", b"417"]),
        (handshake("/echo"), [b"200"]),
    ],
    ids=["refused", "accepted"],
)
def test_a_handshake_of_a_half_closed_client_is_refused_or_dropped(
    proxy: Proxy, caplog: pytest.LogCaptureFixture, tmp_path: Path, request_: bytes, statuses: list[bytes]
) -> None:
    """It waits behind a request. A WebSocket needs both directions, but a refusal is answered. No error is logged."""
    until = tmp_path / "until"
    with proxy.client() as client:
        client.send(f"GET /echo?until={until} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() + request_)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.head().startswith(b"HTTP/1.1 100 ")  # the proxy has seen the end of this side
        until.touch()
        found = client.rest()
    assert re.findall(rb"HTTP/1.1 (\d+) ", found) == statuses
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_data_in_the_packet_of_the_handshake_is_not_lost(proxy: Proxy) -> None:
    """W12: it waits for the answer, which comes first."""
    with proxy.client() as client:
        client.send(handshake("/echo") + frame(PING, b"p") + frame(TEXT, b"one") + frame(TEXT, b"two"))
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert {client.frame() for _ in range(3)} == {(PONG, b"p"), (TEXT, b"one"), (TEXT, b"two")}


def test_a_denial_streams_and_ends_the_connection(proxy: Proxy) -> None:
    """Whatever its length, and whatever the client has sent meanwhile."""
    with proxy.client() as client:
        client.send(handshake("/refusing?pieces=20") + frame(TEXT, b"too soon"))
        (answer,) = answers(client.rest())
    assert (answer.status, answer.headers[b"connection"], len(answer.body)) == (402, b"close", 20 * MIB)


def test_a_denial_that_breaks_off_is_no_whole_one(proxy: Proxy) -> None:
    """The client can tell that something is missing."""
    with proxy.client() as client:
        client.send(handshake("/refusing?pieces=1&broken=1"))
        received = client.rest()
    assert received.startswith(b"HTTP/1.1 402 ")
    with pytest.raises(h11.RemoteProtocolError):
        answers(received)


@pytest.mark.parametrize("status", [204, 304])
def test_a_denial_by_a_status_without_a_body_has_none(proxy: Proxy, status: int) -> None:
    """It has no framing of one either, as over HTTP."""
    with proxy.client() as client:
        client.send(handshake(f"/refusing?pieces=1&status={status}"))
        head, _, rest = client.rest().lower().partition(b"\r\n\r\n")
    assert head.startswith(b"http/1.1 %d " % status)
    assert (b"content-length" in head, b"transfer-encoding" in head, rest) == (False, False, b"")


def test_a_denial_of_which_nobody_takes_more_is_no_error(
    proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The backend has sent a body by a status that has none."""
    ended = tmp_path / "ended"
    with proxy.client() as client:
        client.send(handshake(f"/refusing?pieces=1&status=204&ended={ended}"))
        assert client.head().startswith(b"HTTP/1.1 ")
    wait_until(ended.exists)
    with proxy.client() as client:  # the replica has logged what it would before it answers this one
        client.send(handshake("/refusing?pieces=0"))
        assert client.head().startswith(b"HTTP/1.1 402 ")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_websocket_is_in_no_log(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """A query may hold a secret, and nobody has asked for an access log: uvicorn would write one."""
    with caplog.at_level("INFO"), proxy.client().open("/echo?token=secret") as client:
        client.send(close_frame(1000))
        assert client.closed() == 1000
    assert "secret" not in caplog.text
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", "websockets"))] == []


def test_the_edge_compresses_when_asked_to(proxy: Proxy) -> None:
    """Who does not offer it is not offered it."""
    with proxy.client() as client, proxy.client() as other:
        client.send(handshake("/echo", DEFLATE))
        assert b"permessage-deflate" in client.head()
        other.send(handshake("/echo"))
        assert b"permessage-deflate" not in other.head()


# Frames that break the rules (W04, W06)


def deflated(data: bytes) -> bytes:
    """Return the payload of a compressed message."""
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


FAULTS: dict[str, tuple[bytes, int]] = {
    **{f"reserved bits {bits}": (frame(TEXT, b"x", reserved=bits), 1002) for bits in (1, 2, 4, 7)},
    **{f"opcode {opcode}": (frame(opcode), 1002) for opcode in (3, 7, 11, 15)},
    "not masked": (frame(TEXT, b"x", masked=False), 1002),
    **{f"fragmented control {opcode}": (frame(opcode, fin=False), 1002) for opcode in (CLOSE, PING, PONG)},
    **{f"long control {opcode}": (frame(opcode, bytes(126)), 1002) for opcode in (CLOSE, PING, PONG)},
    "continuation of nothing": (frame(0, b"x"), 1002),
    "message in a message": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "length in 2 bytes for none": (frame(TEXT, b"x" * 125, length_bytes=2), 1002),
    "length in 8 bytes for none": (frame(TEXT, b"", length_bytes=8), 1002),
    "length in 8 bytes for 2": (frame(TEXT, b"x" * 65_535, length_bytes=8), 1002),
    "length of 64 bits": (frame(TEXT, length_bytes=8, length=2**63), 1002),
    "length of a control frame in 2 bytes": (frame(PING, b"x" * 5, length_bytes=2), 1002),
    "W04 no UTF-8": (frame(TEXT, b"\xff"), 1007),
    "W04 half a character": (frame(TEXT, b"\xc3"), 1007),
    "W04 surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "W04 across fragments": (frame(TEXT, b"\xc3", fin=False) + frame(0, b"\x28"), 1007),
    **{f"W06 close {code}": (close_frame(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)},
    "W06 reason of 124 bytes": (close_frame(1000, b"r" * 124), 1002),
    "W06 reason is no UTF-8": (close_frame(1000, b"\xff"), 1007),
    "W06 one byte": (frame(CLOSE, b"\x03"), 1002),
    "too long, as it says": (frame(BINARY, length=LIMIT + 1), 1009),
    "too long, all of it": (frame(BINARY, bytes(LIMIT + 1)), 1009),
    "too long in fragments": (
        frame(BINARY, bytes(LIMIT // 2), fin=False) + frame(0, bytes(LIMIT // 2), fin=False) + frame(0, b"x"),
        1009,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_frame_that_breaks_the_rules_closes_with_the_code_for_it(proxy: Proxy, name: str) -> None:
    """The client gets the close frame even if it is in the middle of sending more, and then the end."""
    data, code = FAULTS[name]
    with proxy.opened() as client:
        client.send(data)
        assert client.closed() == code


BOMBS: dict[str, tuple[bytes, int]] = {
    "one frame": (frame(BINARY, deflated(bytes(LIMIT + 1)), reserved=4), 1009),
    "fragments": (
        frame(BINARY, deflated(bytes(LIMIT + 1))[:9000], fin=False, reserved=4)
        + frame(0, deflated(bytes(LIMIT + 1))[9000:]),
        1009,
    ),
    "far too long": (frame(BINARY, deflated(bytes(20 * LIMIT)), reserved=4), 1009),
    "no deflate": (frame(BINARY, b"\xff\xff\xff", reserved=4), 1002),
    "continuation that says so": (frame(BINARY, b"", fin=False, reserved=4) + frame(0, b"", reserved=4), 1002),
    "control frame": (frame(PING, b"x", reserved=4), 1002),
}


@pytest.mark.parametrize("name", BOMBS)
def test_the_limit_holds_for_what_was_compressed(proxy: Proxy, name: str) -> None:
    """A short message that becomes a long one ends there."""
    data, code = BOMBS[name]
    with proxy.opened(DEFLATE) as client:
        client.send(data)
        assert client.closed() == code


def test_messages_that_inflate_wait_compressed(proxy: Proxy, tmp_path: Path) -> None:
    """To a backend that does not read: what was received takes little, however long all would be."""
    message = frame(BINARY, deflated(bytes(MIB)), reserved=4)
    before = psutil.Process().memory_info().rss
    with proxy.client() as client:
        client.open(f"/deaf?until={tmp_path}/end", DEFLATE)
        sending = threading.Thread(target=client.send, args=(message * 5000,))
        sending.start()
        grown = [0]

        def still() -> bool:
            grown.append(psutil.Process().memory_info().rss - before)
            return len(grown) > 50 and max(grown[-50:]) - min(grown[-50:]) < MIB

        wait_until(still, 60)
        client.socket.shutdown(socket.SHUT_RDWR)
        sending.join()
    (tmp_path / "end").touch()
    assert max(grown) < 32 * MIB


@pytest.mark.parametrize("before", [b"", frame(TEXT, b"half", fin=False)])
@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 3000, 4999])
def test_a_close_is_answered_with_the_same_code(proxy: Proxy, code: int, before: bytes) -> None:
    """Also in the middle of a message."""
    with proxy.opened() as client:
        client.send(before + close_frame(code, b"r" * 123))
        assert client.closed() == code


def test_what_came_before_a_fault_is_not_lost(proxy: Proxy) -> None:
    """A message in the same packet reaches user code; the answer may come too late."""
    with proxy.opened() as client:
        client.send(frame(TEXT, b"good"))
        assert client.frame() == (TEXT, b"good")
        client.send(frame(TEXT, b"good") + frame(3) + frame(TEXT, b"after"))
        seen = client.frame()
        assert seen in [(TEXT, b"good"), (CLOSE, seen[1])]


@pytest.mark.parametrize("piece", [0, 1, 2])
def test_short_pieces_are_a_whole_message(proxy: Proxy, piece: int) -> None:
    """However many, and empty ones too."""
    with proxy.opened() as client:
        client.send(frame(BINARY, b"start", fin=False) + frame(0, b"x" * piece, fin=False) * 20_000 + frame(0, b"end"))
        assert client.frame() == (BINARY, b"start" + b"x" * piece * 20_000 + b"end")


def test_a_client_that_leaves_at_once_is_no_error(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """By a reset, wherever it is."""
    for data in (b"", frame(TEXT, b"hello"), frame(TEXT, b"hello")[:3], frame(TEXT, b"half", fin=False)):
        with proxy.opened() as client:
            client.send(data)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Pings and clients that do nothing (W07, W11)


def test_pings_are_answered_while_messages_pass(proxy: Proxy) -> None:
    """With what they carry, in the middle of a message too."""
    with proxy.opened() as client:
        client.send(frame(TEXT, b"a", fin=False) + frame(PING, b"p" * 125) + frame(0, b"b"))
        assert client.frame() == (PONG, b"p" * 125)
        assert client.frame() == (TEXT, b"ab")


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_a_flood_of_pings_is_ended(proxy: Proxy, opcode: int) -> None:
    """W07: 10,000 at once are more than the edge bears."""
    with proxy.opened() as client:
        sending = threading.Thread(target=client.send, args=(frame(opcode, b"flood") * 10_000,))
        sending.start()
        assert client.closed() == 1008
        sending.join()


def test_a_flood_of_tiny_fragments_is_ended(proxy: Proxy) -> None:
    """Each costs more than it brings; a message of many short pieces passes."""
    with proxy.opened() as client:
        flood = frame(BINARY, b"x", fin=False) + frame(0, b"x", fin=False) * 100_000
        sending = threading.Thread(target=client.send, args=(flood,))
        sending.start()
        assert client.closed() == 1008
        sending.join()


def test_clients_that_send_tiny_fragments_do_not_hold_up_others(proxy: Proxy) -> None:
    """Each client has its turns: theirs are whole messages in the end, and requests are answered meanwhile."""
    pieces = 10_000
    message = frame(BINARY, b"x", fin=False) + frame(0, b"x", fin=False) * pieces + frame(0, b"x")
    answered = 0
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.opened()) for _ in range(20)]
        sending = [threading.Thread(target=client.send, args=(message,)) for client in clients]
        for thread in sending:
            thread.start()
        while not answered or any(thread.is_alive() for thread in sending):
            with proxy.client() as probe:
                probe.send(b"GET /-/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert probe.rest().startswith(b"HTTP/1.1 200 ")
            answered += 1
        assert [client.frame() for client in clients] == [(BINARY, b"x" * (pieces + 2))] * 20


def test_a_client_without_a_pong_is_closed() -> None:
    """W07: with 1011, after two intervals; who answers stays."""
    with running(ping_interval_s=1.0) as (_, proxy), proxy.opened() as mute, proxy.opened() as client:
        for _ in range(3):
            opcode, payload = client.frame()
            assert opcode == PING
            client.send(frame(PONG, payload))
        assert mute.closed() == 1011
        client.send(frame(TEXT, b"here"))
        while (got := client.frame())[0] == PING:
            pass
        assert got == (TEXT, b"here")


def test_a_client_that_takes_nothing_is_cut_off() -> None:
    """W11: after `write_timeout_s`, though it goes on asking."""
    with running(write_timeout_s=0.3) as (_, proxy), proxy.client(receive_buffer=4096) as client:
        client.open("/echo")

        def ask() -> None:
            while True:
                client.socket.sendall(frame(TEXT, b"x" * 100_000))

        with pytest.raises(ConnectionError):
            ask()


def test_a_backend_that_does_not_read_does_not_hide_a_client_that_leaves(proxy: Proxy, tmp_path: Path) -> None:
    """Its WebSocket ends though nobody asks for its messages."""
    with proxy.client() as client:
        client.open(f"/deaf?until={tmp_path}/end")
        client.send(frame(TEXT, b"x") + close_frame(1000))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.closed() in (None, 1000)
    (tmp_path / "end").touch()


# Draining (W10)


def test_a_drain_closes_with_1012_and_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    """Within the grace, though one does not answer the close."""
    caplog.set_level("INFO", "serve_bridge.proxy")
    with running() as (client, proxy), proxy.client() as polite, proxy.client() as rude:
        polite.open("/echo")
        rude.open("/echo")
        ending = threading.Thread(target=client.shutdown)
        ending.start()
        assert polite.frame() == (CLOSE, (1012).to_bytes(2))
        polite.send(close_frame(1012))
        assert polite.rest() == b""
        assert rude.closed() == 1012
        ending.join(60)
        assert not ending.is_alive()
    reports = [record.getMessage() for record in caplog.records if "1012" in record.getMessage()]
    assert len(reports) == 1
    assert reports[0].startswith("closed 3 WebSockets")


def test_a_handshake_that_crosses_with_a_drain_is_answered(proxy: Proxy) -> None:
    """And closed with 1012 at once."""
    with edge_running() as edge, RawWebSocket(edge.address) as client:

        async def slow(receive: Receive, send: Send) -> None:
            await receive()
            edge.app.started.set()
            await edge.app.go.wait()
            await send({"type": "websocket.accept"})
            assert (await receive())["code"] == 1012

        edge.app.echo = slow  # type: ignore[method-assign]
        client.send(handshake("/"))
        assert edge.app.started.wait(20)
        draining = asyncio.run_coroutine_threadsafe(edge.server.drain(20), edge.loop)
        wait_until_refused(edge)
        edge.loop.call_soon_threadsafe(edge.app.go.set)
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frame() == (CLOSE, (1012).to_bytes(2))
        client.send(close_frame(1012))
        draining.result(20)
