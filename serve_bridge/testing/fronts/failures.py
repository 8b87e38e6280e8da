"""Tests of failed requests, and of details that an answer must not reveal."""

from __future__ import annotations

import httpx
import pytest

from serve_bridge.testing.behaviours import REFUSALS
from serve_bridge.testing.fronts.front import Front


class FailureContract(Front):
    """A failed request has a fitting status, and reveals no details."""

    @pytest.mark.parametrize("kind", ["error", "own", "exit", "result"])
    def test_a_failing_backend_is_a_500_without_details(self, serve_bridge_http: httpx.Client, kind: str) -> None:
        """The answer has the request id, but no traceback and no text of the error."""
        answer = serve_bridge_http.get("/failing", params={"kind": kind})
        assert answer.status_code == 500
        assert answer.headers["x-request-id"]
        assert not {"secret", "Traceback", "OddError", "SystemExit"} & set(answer.text.replace("(", " ").split())

    @pytest.mark.parametrize(("kind", "status", "retry"), [("missing", 503, "1"), ("late", 504, None)])
    def test_a_failed_call_of_a_backend_keeps_its_status(
        self, serve_bridge_http: httpx.Client, kind: str, status: int, retry: str | None
    ) -> None:
        """The backend's code did not fail; the endpoint that it called is missing or too slow."""
        answer = serve_bridge_http.get("/failing", params={"kind": kind})
        assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)

    @pytest.mark.parametrize("kind", REFUSALS)
    def test_a_refused_call_of_a_backend_proves_nothing_of_the_backend(
        self, serve_bridge_http: httpx.Client, kind: str
    ) -> None:
        """The backend's code ran before its call was refused, so a client must not take its request for unstarted."""
        answer = serve_bridge_http.get("/failing", params={"kind": kind})
        assert (answer.status_code, answer.headers.get("x-serve-executed")) == (REFUSALS[kind][1], "unknown")

    def test_a_status_that_the_backend_raises_is_an_answer(self, serve_bridge_http: httpx.Client) -> None:
        """The answer has the headers of Starlette's HTTPException."""
        answer = serve_bridge_http.get("/failing", params={"kind": "http"})
        assert (answer.status_code, answer.headers["x-why"]) == (451, "law")
        assert "x-serve-executed" not in answer.headers

    def test_an_answer_that_breaks_off_is_visibly_broken(self, serve_bridge_front: str) -> None:
        """The client gets an error of the transport, not a short answer."""
        with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False, verify=False) as http:
            http.get(f"{serve_bridge_front}/broken")

    @pytest.mark.parametrize("query", ["", "?raised"], ids=["returned", "raised"])
    def test_a_header_with_a_line_end_is_refused(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """Text in a header cannot inject a second header."""
        answer = serve_bridge_http.get(f"/injecting{query}")
        assert answer.status_code == 500
        assert "x-injected" not in answer.headers

    def test_an_empty_control_header_is_a_400(self, serve_bridge_http: httpx.Client) -> None:
        """An empty value has no meaning, and the front does not guess one."""
        assert serve_bridge_http.get("/echo", headers={"x-serve-shard-key": ""}).status_code == 400

    def test_control_headers_stay(self, serve_bridge_http: httpx.Client) -> None:
        """User code must not mistake a client's header for one of serve_bridge."""
        given = {"x-serve-shard-key": "k", "x-serve-other": "1"}
        names = {name for name, _ in serve_bridge_http.get("/echo", headers=given).json()["headers"]}
        assert not any(name.startswith("x-serve-") for name in names)
