"""Any bytes to the WebSockets of a proxy: a handshake is answered, frames end in a close, and a neighbour goes on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.support.inputs import SCALE
from tests.support.raw_websocket import BINARY, DEFLATE, FIELDS, PING, TEXT, close_frame, frame, handshake
from tests.support.websocket_proxy import Proxy, running


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


_pieces = st.one_of(
    st.builds(
        frame,
        st.integers(0, 15),
        st.binary(max_size=200),
        fin=st.booleans(),
        reserved=st.sampled_from([0, 0, 0, 1, 2, 4]),
        masked=st.sampled_from([True, True, True, False]),
    ),
    st.builds(frame, st.sampled_from([TEXT, BINARY, 0, PING]), st.binary(max_size=40)),
    st.builds(close_frame, st.integers(0, 5000), st.binary(max_size=130)),
    st.binary(max_size=40),
)


@settings(
    max_examples=int(40 * SCALE),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(st.lists(_pieces, max_size=8), st.booleans())
def test_any_bytes_end_in_a_close_that_may_be(proxy: Proxy, pieces: list[bytes], deflate: bool) -> None:
    """Never a hang, never an error of ours, and what comes back are right frames to the end."""
    with proxy.opened(*[DEFLATE] * deflate) as client:
        client.send(b"".join(pieces))
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        code = client.closed()
        assert code is None or code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, *range(1010, 1015)) or code >= 3000


_fields = st.lists(
    st.one_of(
        st.sampled_from(FIELDS),
        st.builds(
            lambda name, value: name + b": " + value,
            st.sampled_from([field.partition(b":")[0] for field in FIELDS] + [b"Sec-WebSocket-Extensions"]),
            st.binary(max_size=40).filter(lambda value: not set(value) & set(b"\r\n")),
        ),
    ),
    max_size=6,
)


@settings(
    max_examples=int(40 * SCALE),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(_fields)
def test_any_handshake_is_answered(proxy: Proxy, more: list[bytes]) -> None:
    """By a status that blames the client, by a WebSocket, or as a request if it asks for none."""
    with proxy.client() as client:
        client.send(handshake("/echo", *more))
        status = int(client.head().split(b" ")[1])
        assert status in (101, 200) or 400 <= status < 500
