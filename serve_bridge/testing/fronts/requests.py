"""Tests of requests as a backend sees them: method, path, query, headers."""

from __future__ import annotations

from urllib.parse import unquote

import httpx
import pytest

from serve_bridge.testing.fronts.front import Front
from serve_bridge.testing.fronts.routes import CLAIMS, METHODS


class RequestContract(Front):
    """A backend gets the request of the client unchanged, without the headers that end at the front."""

    @pytest.mark.parametrize("method", METHODS)
    def test_a_method_arrives(self, serve_bridge_http: httpx.Client, method: str) -> None:
        """The backend sees each method of the route."""
        assert serve_bridge_http.request(method, "/echo").json()["method"] == method

    def test_another_method_than_the_routes_is_refused(self, serve_bridge_http: httpx.Client) -> None:
        """The framework answers with 405, and does not ask the backend."""
        assert serve_bridge_http.post("/gets").status_code == 405

    def test_path_parameters_arrive_typed(self, serve_bridge_http: httpx.Client) -> None:
        """They have the types of Starlette's converters."""
        key = "0b7cb4c6-5ef5-4c0b-ba0a-4c2f9a4f0f0c"
        seen = serve_bridge_http.get(f"/typed/7/1.5/{key}/n/a/b").json()
        assert seen["params"] == {
            "count": ["int", "7"],
            "share": ["float", "1.5"],
            "key": ["UUID", key],
            "name": ["str", "n"],
            "rest": ["str", "a/b"],
        }

    def test_a_path_arrives_decoded(self, serve_bridge_http: httpx.Client) -> None:
        """Characters outside of ASCII, and escapes, arrive as text."""
        seen = serve_bridge_http.get("/echo/gr%C3%BC%C3%9Fe%20an/alle").json()
        assert seen["params"] == {"rest": ["str", "grüße an/alle"]}
        assert unquote(seen["path"]) == "/echo/grüße an/alle"

    @pytest.mark.parametrize("query", ["x=1&x=2&y=", "q=%C3%BC+a%26b", "flag", ""])
    def test_a_query_arrives_as_it_was_sent(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """Repeated keys, their order, and every byte stay."""
        url = "/echo" + (f"?{query}" if query else "")
        assert serve_bridge_http.get(url).json()["query"] == query

    def test_headers_arrive(self, serve_bridge_http: httpx.Client) -> None:
        """Values outside of ASCII arrive as Latin-1, the encoding of headers."""
        given = [(b"x-mine", b"yes"), (b"x-latin", b"caf\xe9"), (b"content-type", b"text/x")]
        headers = dict(serve_bridge_http.get("/echo", headers=given).json()["headers"])
        assert (headers["x-mine"], headers["x-latin"], headers["content-type"]) == ("yes", "café", "text/x")

    def test_every_value_of_a_repeated_header_arrives(self, serve_bridge_http: httpx.Client) -> None:
        """The order stays. An interface such as WSGI may join them to one header (RFC 9110 section 5.3)."""
        given = [("x-many", "1"), ("x-many", "2"), ("x-many", "3")]
        headers = serve_bridge_http.get("/echo", headers=given).json()["headers"]
        values = ",".join(value for name, value in headers if name == "x-many")
        assert values.replace(" ", "") == "1,2,3"

    def test_hop_by_hop_headers_stay(self, serve_bridge_http: httpx.Client) -> None:
        """They are for this server only. `Proxy` would become the variable HTTP_PROXY of a CGI program."""
        given = {"te": "trailers", "keep-alive": "timeout=5", "proxy": "http://evil", "proxy-connection": "close"}
        headers = dict(serve_bridge_http.get("/echo", headers=given).json()["headers"])
        assert not {*given, "connection", "transfer-encoding"} & headers.keys()

    def test_an_expectation_stays(self, serve_bridge_http: httpx.Client) -> None:
        """This server meets it, so the backend never sees the header `Expect`."""
        seen = serve_bridge_http.post("/echo", headers={"expect": "100-continue"}, content=b"body").json()
        assert seen["body"] == "body"
        assert "expect" not in dict(seen["headers"])

    def test_headers_that_connection_names_stay(self, serve_bridge_http: httpx.Client) -> None:
        """They are for this connection only. A client cannot remove the framing and the host in this way."""
        given = {"connection": "close, X-Mine ,host,content-type", "X-Mine": "1", "x-other": "2", "content-type": "a/b"}
        headers = dict(serve_bridge_http.post("/echo", headers=given, content=b"x").json()["headers"])
        assert "x-mine" not in headers
        assert {"x-other", "host", "content-type"} <= headers.keys()

    def test_a_client_cannot_forge_its_origin(self, serve_bridge_http: httpx.Client) -> None:
        """The server and the framework decide about scheme, host and client; the backend does not get such headers."""
        answer = serve_bridge_http.get("/echo", headers=CLAIMS)
        seen = answer.json()
        assert not CLAIMS.keys() & dict(seen["headers"]).keys()
        netloc = serve_bridge_http.base_url.netloc.decode()
        assert (seen["scheme"], seen["netloc"], seen["client"]) == ("http", netloc, "127.0.0.1")

    def test_header_names_with_an_underscore_stay(self, serve_bridge_http: httpx.Client) -> None:
        """WSGI and CGI cannot distinguish them from names with a hyphen, which code may trust."""
        given = {"x_forwarded_for": "10.9.8.7", "X_Serve_Executed": "no", "x-mine": "1"}
        names = {name for name, _ in serve_bridge_http.get("/echo", headers=given).json()["headers"]}
        assert not {name for name in names if "_" in name or name.startswith(("x-forwarded", "x-serve"))}
        assert "x-mine" in names

    def test_the_url_and_the_client_arrive(self, serve_bridge_http: httpx.Client) -> None:
        """Scheme, host and port are those that the client wrote."""
        seen = serve_bridge_http.get("/echo").json()
        netloc = serve_bridge_http.base_url.netloc.decode()
        assert (seen["scheme"], seen["netloc"], seen["client"]) == ("http", netloc, "127.0.0.1")
