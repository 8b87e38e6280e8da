"""Answers as a client sees them: status, headers, whole bodies."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest

from serve_bridge.testing.fronts.front import Front


class AnswerContract(Front):
    """A client gets the answer that user code has made."""

    def test_status_and_headers_come_back(self, serve_bridge_http: httpx.Client) -> None:
        """But no header of the engine's own."""
        answer = serve_bridge_http.get("/answer")
        assert (answer.status_code, answer.text, answer.headers["x-own"]) == (418, "teapot", "1")
        assert answer.headers["content-type"].partition(";")[0] == "text/x"
        assert "x-serve-secret" not in answer.headers

    def test_every_value_of_a_repeated_header_comes_back(self, serve_bridge_http: httpx.Client) -> None:
        """As one header perhaps (RFC 9110 section 5.3)."""
        assert serve_bridge_http.get("/answer").headers["x-many"].replace(" ", "") == "1,2"

    def test_every_cookie_comes_back(self, serve_bridge_http: httpx.Client) -> None:
        """With its attributes, and two of one name for two paths: these can be in no single header."""
        cookies = serve_bridge_http.get("/answer").headers.get_list("set-cookie")
        told = sorted((cookie.partition(";")[0], "httponly" in cookie.lower()) for cookie in cookies)
        assert told == [("a=1", False), ("a=3", False), ("b=2", True)]

    @pytest.mark.parametrize("query", ["", "?streamed", "?raised"], ids=["whole", "streamed", "raised"])
    def test_the_case_of_a_header_does_not_matter(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """ASGI and WSGI allow any; headers of the engine cannot be forged by it, and no cookie is lost."""
        answer = serve_bridge_http.get(f"/mixed{query}", headers={"x-request-id": "mine-1"})
        assert answer.headers["x-own"] == "1"
        assert answer.headers.get_list("x-request-id") == ["mine-1"]
        assert not {"x-serve-executed", "x-hop"} & answer.headers.keys()
        if "raised" not in query:
            assert sorted(answer.headers.get_list("set-cookie")) == ["a=1", "b=2"]

    @pytest.mark.parametrize(("declared", "pieces"), [(12, 2), (12, 0), (8, 2), (5, 2)])
    def test_an_answer_of_another_length_than_declared_leaks_nothing(
        self, serve_bridge_front: str, declared: int, pieces: int
    ) -> None:
        """An answer that is too short is visibly broken; bytes above the length do not become another answer."""
        path = f"/mismatched?declared={declared}&pieces={pieces}"
        with httpx.Client(base_url=serve_bridge_front, trust_env=False, verify=False, timeout=15) as http:
            is_short = declared > 5 * pieces
            with pytest.raises(httpx.TransportError) if is_short else suppress(httpx.TransportError):
                answer = http.get(path)
                if answer.status_code != 500:  # the framework has asked for the first piece before it began to answer
                    assert answer.content == (b"12345" * pieces)[:declared]
                elif is_short:
                    raise httpx.RemoteProtocolError("the answer is not there at all")
            with suppress(httpx.TransportError):  # the server has closed the connection
                assert http.get("/echo/next").json()["path"] == "/echo/next"

    def test_head_is_get_without_its_body(self, serve_bridge_http: httpx.Client) -> None:
        """Status and type are the same."""
        got, head = serve_bridge_http.get("/echo"), serve_bridge_http.head("/echo")
        assert (head.status_code, head.headers["content-type"]) == (200, got.headers["content-type"])
        assert head.content == b""

    @pytest.mark.parametrize("path", ["/answer", "/large", "/lines", "/mixed", "/mixed?streamed", "/mixed?raised"])
    def test_the_length_of_head_is_that_of_get(self, serve_bridge_http: httpx.Client, path: str) -> None:
        """Or it is not there: a client must not take the answer for an empty one."""
        length = serve_bridge_http.head(path).headers.get("content-length")
        assert length in (None, serve_bridge_http.get(path).headers.get("content-length"))

    @pytest.mark.parametrize("status", [204, 304])
    def test_an_empty_answer_has_no_body(self, serve_bridge_http: httpx.Client, status: int) -> None:
        """Nor does a later one on its connection suffer."""
        answer = serve_bridge_http.get("/nothing", params={"status": status})
        assert (answer.status_code, answer.content) == (status, b"")
        assert status == 304 or answer.headers.get("content-length", "0") == "0"  # wsgiref adds that one
        assert serve_bridge_http.get("/echo").status_code == 200
