"""Tests of answers as a client sees them: status, headers, whole bodies."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest

from serve_bridge.testing.fronts.front import Front


class AnswerContract(Front):
    """A client gets the answer of user code unchanged."""

    def test_the_client_gets_status_and_headers(self, serve_bridge_http: httpx.Client) -> None:
        """Internal headers of serve_bridge are left out."""
        answer = serve_bridge_http.get("/answer")
        assert (answer.status_code, answer.text, answer.headers["x-own"]) == (418, "teapot", "1")
        assert answer.headers["content-type"].partition(";")[0] == "text/x"
        assert "x-serve-secret" not in answer.headers

    def test_the_client_gets_every_value_of_a_repeated_header(self, serve_bridge_http: httpx.Client) -> None:
        """They may be joined to one header (RFC 9110 section 5.3)."""
        assert serve_bridge_http.get("/answer").headers["x-many"].replace(" ", "") == "1,2"

    def test_the_client_gets_every_cookie(self, serve_bridge_http: httpx.Client) -> None:
        """Attributes stay, and so do two cookies of the same name for two paths, which no single header can hold."""
        cookies = serve_bridge_http.get("/answer").headers.get_list("set-cookie")
        told = sorted((cookie.partition(";")[0], "httponly" in cookie.lower()) for cookie in cookies)
        assert told == [("a=1", False), ("a=3", False), ("b=2", True)]

    @pytest.mark.parametrize("query", ["", "?streamed", "?raised"], ids=["whole", "streamed", "raised"])
    def test_the_case_of_a_header_does_not_matter(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """ASGI and WSGI allow upper case. It does not help to forge headers of serve_bridge, and no cookie is lost."""
        answer = serve_bridge_http.get(f"/mixed{query}", headers={"x-request-id": "mine-1"})
        assert answer.headers["x-own"] == "1"
        assert answer.headers.get_list("x-request-id") == ["mine-1"]
        assert not {"x-serve-executed", "x-hop"} & answer.headers.keys()
        if "raised" not in query:
            assert sorted(answer.headers.get_list("set-cookie")) == ["a=1", "b=2"]

    @pytest.mark.parametrize(("declared", "pieces"), [(12, 2), (12, 0), (8, 2), (5, 2)])
    def test_an_answer_with_a_wrong_length_leaks_nothing(
        self, serve_bridge_front: str, declared: int, pieces: int
    ) -> None:
        """An answer below its Content-Length is visibly broken; bytes above it do not become another answer."""
        path = f"/mismatched?declared={declared}&pieces={pieces}"
        with httpx.Client(base_url=serve_bridge_front, trust_env=False, verify=False, timeout=15) as http:
            is_short = declared > 5 * pieces
            with pytest.raises(httpx.TransportError) if is_short else suppress(httpx.TransportError):
                answer = http.get(path)
                if answer.status_code != 500:  # the framework asks for the first piece before it begins to answer
                    assert answer.content == (b"12345" * pieces)[:declared]
                elif is_short:
                    raise httpx.RemoteProtocolError("there is no answer at all")
            with suppress(httpx.TransportError):  # the server has closed the connection
                assert http.get("/echo/next").json()["path"] == "/echo/next"

    def test_head_is_get_without_its_body(self, serve_bridge_http: httpx.Client) -> None:
        """Status and Content-Type are the same."""
        got, head = serve_bridge_http.get("/echo"), serve_bridge_http.head("/echo")
        assert (head.status_code, head.headers["content-type"]) == (200, got.headers["content-type"])
        assert head.content == b""

    @pytest.mark.parametrize("path", ["/answer", "/large", "/lines", "/mixed", "/mixed?streamed", "/mixed?raised"])
    def test_the_length_of_head_is_that_of_get(self, serve_bridge_http: httpx.Client, path: str) -> None:
        """Or the header is missing: a client must not conclude from HEAD that the answer to GET is empty."""
        length = serve_bridge_http.head(path).headers.get("content-length")
        assert length in (None, serve_bridge_http.get(path).headers.get("content-length"))

    @pytest.mark.parametrize("status", [204, 304])
    def test_an_empty_answer_has_no_body(self, serve_bridge_http: httpx.Client, status: int) -> None:
        """The next answer on the connection is intact too."""
        answer = serve_bridge_http.get("/nothing", params={"status": status})
        assert (answer.status_code, answer.content) == (status, b"")
        assert status == 304 or answer.headers.get("content-length", "0") == "0"  # wsgiref adds this header
        assert serve_bridge_http.get("/echo").status_code == 200
