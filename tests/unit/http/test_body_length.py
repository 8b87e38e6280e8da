"""The length of a request's body, as its server reports it."""

from __future__ import annotations

from typing import Any

import pytest

from serve_bridge.http.body_length import BODY_LENGTH, body_length, environ_body_length

LENGTH = (b"content-length", b"7")
CHUNKED = (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize(
    ("scope", "length"),
    [
        ({"headers": []}, 0),
        ({}, 0),
        ({"headers": [LENGTH]}, 7),
        ({"headers": [(b"Content-Length", b"7")]}, 7),
        ({"headers": [CHUNKED]}, None),
        ({"headers": [LENGTH, (b"Transfer-Encoding", b"chunked")]}, None),
        ({"headers": [(b"content-length", b"x")]}, 0),
        ({"headers": [], "http_version": "2"}, None),
        ({"headers": [LENGTH], "http_version": "2"}, 7),
        ({"headers": [(b"content-length", b"0")], "http_version": "3"}, 0),
        ({"headers": [LENGTH], BODY_LENGTH: None}, None),
        ({"headers": [LENGTH], BODY_LENGTH: 0}, 0),
        ({"headers": [CHUNKED], BODY_LENGTH: 5}, 5),
    ],
)
def test_a_scope_tells_the_length_of_its_body(scope: dict[str, Any], length: int | None) -> None:
    """The fact counts; without it, what other servers leave in the headers."""
    assert body_length(scope) == length


@pytest.mark.parametrize(
    ("environ", "length"),
    [
        ({}, 0),
        ({"CONTENT_LENGTH": ""}, 0),
        ({"CONTENT_LENGTH": "7"}, 7),
        ({"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, None),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}, None),
        ({"CONTENT_LENGTH": "7", "HTTP_TRANSFER_ENCODING": "chunked"}, 7),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, 0),
        ({"SERVER_PROTOCOL": "HTTP/2"}, None),
        ({"SERVER_PROTOCOL": "INCLUDED"}, 0),
    ],
)
def test_an_environ_tells_the_length_of_its_body(environ: dict[str, Any], length: int | None) -> None:
    """A server that has decoded chunks may give the length of the result."""
    assert environ_body_length(environ) == length
