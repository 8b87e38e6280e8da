"""Tests of streamed answers, and of clients that leave."""

from __future__ import annotations

import secrets
from functools import partial

import httpx

from serve_bridge.client.handle import Handle
from serve_bridge.testing.behaviours import PARTS
from serve_bridge.testing.fronts.front import Front, needs
from serve_bridge.testing.fronts.progress import at_rest
from serve_bridge.testing.fronts.routes import HELD_BYTES, LONG_BYTES, STREAMED_OR_NOT
from serve_bridge.testing.raw_exchange import RawExchange
from serve_bridge.testing.subject import PART


class StreamContract(Front):
    """A client gets an answer piece by piece; the work ends when the client leaves."""

    def test_an_answer_is_streamed(self, serve_bridge_http: httpx.Client) -> None:
        """All parts arrive in order."""
        assert serve_bridge_http.get("/lines").text == "".join(PARTS)

    def test_the_first_part_arrives_before_the_last_is_made(
        self, serve_bridge_http: httpx.Client, serve_bridge_subject: Handle
    ) -> None:
        """No part of the way waits for more bytes."""
        gate = secrets.token_hex(8)
        with serve_bridge_http.stream("GET", "/gated", params={"gate": gate}) as answer:
            parts = answer.iter_text()
            assert next(parts) == "first\n"
            serve_bridge_subject.options(method_name="open").call(gate)
            assert "".join(parts) == "last\n"

    def test_a_stream_asks_reverse_proxies_not_to_buffer(self, serve_bridge_http: httpx.Client) -> None:
        """A reverse proxy such as nginx would hold events back. The backend may allow that in its own header."""
        told = {path: serve_bridge_http.get(path).headers.get("x-accel-buffering") for path in STREAMED_OR_NOT}
        assert told == STREAMED_OR_NOT

    @needs("early heads")
    def test_a_head_does_not_wait_for_its_body(self, serve_bridge_front: str, serve_bridge_subject: Handle) -> None:
        """A client of a stream of events sees at once that the stream is open."""
        gate = secrets.token_hex(8)
        with RawExchange(serve_bridge_front, "GET", f"/silent?gate={gate}") as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            serve_bridge_subject.options(method_name="open").call(gate)
            assert exchange.read_at_least(4) == b"all\n"

    def test_a_client_that_does_not_read_pauses_the_backend(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """Back-pressure reaches the backend. Once the client reads, the whole answer arrives."""
        gate = secrets.token_hex(8)
        target = f"/counted?gate={gate}&parts={LONG_BYTES // len(PART)}"
        with RawExchange(serve_bridge_front, "GET", target) as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            produced = partial(serve_bridge_subject.options(method_name="produced").call, gate)
            assert 0 < at_rest(produced, serve_bridge_subject) <= HELD_BYTES
            assert len(exchange.read_at_least(LONG_BYTES)) == LONG_BYTES

    def test_a_client_that_leaves_during_an_answer_cancels_it(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """The backend stops working on an answer without a reader."""
        gate = secrets.token_hex(8)
        with RawExchange(serve_bridge_front, "GET", f"/endless?gate={gate}") as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            assert exchange.read()
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    def test_the_usual_loop_of_events_ends_when_the_client_leaves(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """`while not await request.is_disconnected()` ends; a WSGI server notices the disconnect at the next event."""
        gate = secrets.token_hex(8)
        with RawExchange(serve_bridge_front, "GET", f"/events?gate={gate}") as exchange:
            exchange.end()
            assert exchange.head().status_code == 200
            assert exchange.read_at_least(50).startswith(b"data: tick\n\n" * 4)
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    @needs("disconnects")
    def test_a_client_that_leaves_before_the_answer_cancels_the_work(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """The front notices it although no bytes are sent in either direction."""
        gate = secrets.token_hex(8)
        with RawExchange(serve_bridge_front, "GET", f"/hanging?gate={gate}") as exchange:
            exchange.end()
            serve_bridge_subject.options(method_name="begun").call(gate)
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True
