"""Tests of the bodies of requests: whole, streamed, refused, cancelled."""

from __future__ import annotations

import hashlib
import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import httpx

from serve_bridge.client.handle import Handle
from serve_bridge.testing.fronts.front import Front, needs
from serve_bridge.testing.fronts.progress import at_rest
from serve_bridge.testing.fronts.routes import HELD_BYTES, LONG_BYTES, PIECE
from serve_bridge.testing.raw_exchange import RawExchange


class BodyContract(Front):
    """A backend gets the body of the client, as fast as it reads."""

    def test_a_body_arrives(self, serve_bridge_http: httpx.Client) -> None:
        """A short body is sent with the head of the request."""
        assert serve_bridge_http.post("/echo", content="grüße").json()["body"] == "grüße"

    def test_an_empty_body_is_none(self, serve_bridge_http: httpx.Client) -> None:
        """A POST may have no body."""
        assert serve_bridge_http.post("/echo", content=b"").json()["body"] == ""

    def test_a_long_body_arrives_whole(self, serve_bridge_http: httpx.Client) -> None:
        """It is streamed, because it does not fit into the first message."""
        body = PIECE * 12
        seen = serve_bridge_http.put("/digest", content=body).json()
        assert seen == {"size": len(body), "digest": hashlib.sha256(body).hexdigest()}

    @needs("chunked uploads")
    def test_a_body_of_unknown_length_arrives_whole(self, serve_bridge_http: httpx.Client) -> None:
        """It is streamed in chunks."""
        body = [b"1" * 10, PIECE, b"2" * 100_000]
        seen = serve_bridge_http.post("/digest", content=iter(body)).json()
        assert seen == {"size": sum(map(len, body)), "digest": hashlib.sha256(b"".join(body)).hexdigest()}

    def test_a_form_with_a_file_arrives(self, serve_bridge_http: httpx.Client) -> None:
        """The front does not parse multipart bodies."""
        file = ("f.txt", b"content", "text/plain")
        answer = serve_bridge_http.post("/form", data={"name": "n"}, files={"file": file})
        assert answer.json() == {"name": "n", "file": ["f.txt", "content"]}

    @needs("early answers")
    def test_an_answer_may_come_before_the_body(self, serve_bridge_front: str) -> None:
        """A backend may answer without reading the body."""
        with RawExchange(serve_bridge_front, "POST", "/early", [("content-length", str(len(PIECE) * 12))]) as exchange:
            exchange.send(PIECE)
            assert exchange.head().status_code == 202

    @needs("duplex")
    def test_a_client_that_waits_is_asked_for_its_body_when_the_backend_reads(self, serve_bridge_front: str) -> None:
        """The front sends 100 (Continue) only if the backend reads the body."""
        expecting = [("content-length", "4"), ("expect", "100-continue")]
        with RawExchange(serve_bridge_front, "POST", "/early", expecting) as exchange:
            assert exchange.next_status() == 202
        with RawExchange(serve_bridge_front, "POST", "/digest", expecting) as exchange:
            assert exchange.next_status() == 100
            exchange.send(b"body")
            assert exchange.next_status() == 200

    def test_body_and_answer_pass_at_the_same_time(self, serve_bridge_front: str) -> None:
        """A backend may send a long body back without holding it."""
        length = len(PIECE) * 12
        with (
            RawExchange(serve_bridge_front, "POST", "/duplex", [("content-length", str(length))]) as exchange,
            ThreadPoolExecutor(1) as sender,
        ):
            sent = sender.map(exchange.send, [PIECE] * 12)
            assert exchange.head().status_code == 200
            assert exchange.read_at_least(length) == PIECE * 12
            list(sent)

    @needs("duplex")
    def test_an_answer_begins_while_the_body_still_arrives(self, serve_bridge_front: str) -> None:
        """A client may need the first part of the answer to know what to send next."""
        with RawExchange(serve_bridge_front, "POST", "/duplex", [("content-length", str(len(PIECE) * 2))]) as exchange:
            exchange.send(PIECE)
            assert exchange.head().status_code == 200
            first = exchange.read_at_least(len(PIECE) // 4)
            assert PIECE.startswith(first)
            exchange.send(PIECE)
            assert first + exchange.read_at_least(len(PIECE) * 2 - len(first)) == PIECE * 2

    @needs("streamed uploads")
    def test_a_backend_that_does_not_read_pauses_the_client(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """Back-pressure reaches the client. Once the backend reads, the whole body arrives."""
        gate = secrets.token_hex(8)
        length, sent = [("content-length", str(LONG_BYTES))], [0]

        def upload() -> None:
            for _ in range(LONG_BYTES // len(PIECE)):
                exchange.send(PIECE)
                sent[0] += len(PIECE)

        with (
            RawExchange(serve_bridge_front, "POST", f"/paused?gate={gate}", length) as exchange,
            ThreadPoolExecutor(1) as sender,
        ):
            sending = sender.submit(upload)
            serve_bridge_subject.options(method_name="begun").call(gate)
            assert at_rest(lambda: sent[0], serve_bridge_subject) <= HELD_BYTES
            serve_bridge_subject.options(method_name="open").call(gate)
            sending.result()
            assert exchange.head().status_code == 200
            assert json.loads(exchange.read_at_least(LONG_BYTES)) == {"size": LONG_BYTES}

    @needs("streamed uploads")
    def test_a_client_that_leaves_during_its_upload_ends_it(
        self, serve_bridge_front: str, serve_bridge_subject: Handle
    ) -> None:
        """The backend does not wait for the rest, and the front answers other requests."""
        gate = secrets.token_hex(8)
        length = [("content-length", str(len(PIECE) * 2))]
        with RawExchange(serve_bridge_front, "POST", f"/upload?gate={gate}", length) as exchange:
            exchange.send(PIECE)
            serve_bridge_subject.options(method_name="begun").call(gate)
            exchange.leave()
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True
