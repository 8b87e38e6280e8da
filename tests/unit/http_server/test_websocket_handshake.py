"""The answers that deny a handshake, and the log of WebSockets."""

from __future__ import annotations

import logging

import pytest

from serve_bridge.http_server.websocket_handshake import Denial, WarningLogger


@pytest.mark.parametrize(
    ("status", "given", "pieces", "framing", "sent"),
    [
        (403, [], [b"body"], {"Content-Length": "4"}, b"body"),
        (403, [], [b"bo", b"dy"], {"Transfer-Encoding": "chunked"}, b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"),
        (403, [("content-length", "3")], [b"bo", b"dy"], {"Content-Length": "3"}, b"bod"),
        (403, [("Transfer-Encoding", "gzip"), ("content-length", "4")], [b"body"], {"Content-Length": "4"}, b"body"),
        (204, [("content-length", "4")], [b"body"], {}, b""),
        (304, [], [b"bo", b"dy"], {}, b""),
        (103, [], [b"body"], {}, b""),
    ],
)
def test_a_denial_is_framed_by_its_status_and_its_length(
    status: int, given: list[tuple[str, str]], pieces: list[bytes], framing: dict[str, str], sent: bytes
) -> None:
    """A client cannot read the rest of a body that is too long as another answer."""
    denial = Denial(status, given, len(pieces[0]) if len(pieces) == 1 else None)
    headers = denial.response.headers
    assert {name: headers[name] for name in ("Content-Length", "Transfer-Encoding") if name in headers} == framing
    assert b"".join(denial.framed(piece, last=piece is pieces[-1]) for piece in pieces) == sent


def test_only_warnings_and_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """By the name of the logger they are passed on to."""
    logger = WarningLogger(logging.getLogger("serve_bridge.proxy"))
    with caplog.at_level("DEBUG"):
        logger.info("/path?secret")
        logger.warning("a %s", "warning")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("serve_bridge.proxy", "a warning")]
