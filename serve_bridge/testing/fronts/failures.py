"""Requests that fail, and what an answer must not reveal."""

from __future__ import annotations

import httpx
import pytest

from serve_bridge.testing.fronts.front import Front


class FailureContract(Front):
    """A failure has a status that says whose fault it is, and no details."""

    @pytest.mark.parametrize("kind", ["error", "own", "exit", "result"])
    def test_a_failing_backend_is_a_500_that_says_nothing(self, serve_bridge_http: httpx.Client, kind: str) -> None:
        """But for the request's id: no traceback, no text of the error."""
        answer = serve_bridge_http.get("/failing", params={"kind": kind})
        assert answer.status_code == 500
        assert answer.headers["x-request-id"]
        assert not {"secret", "Traceback", "OddError", "SystemExit"} & set(answer.text.replace("(", " ").split())

    @pytest.mark.parametrize(("kind", "status", "retry"), [("missing", 503, "1"), ("late", 504, None)])
    def test_a_failed_call_of_a_backend_keeps_its_status(
        self, serve_bridge_http: httpx.Client, kind: str, status: int, retry: str | None
    ) -> None:
        """The backend's code did not fail: what it called is missing, or too slow."""
        answer = serve_bridge_http.get("/failing", params={"kind": kind})
        assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)

    def test_a_status_that_the_backend_raises_is_an_answer(self, serve_bridge_http: httpx.Client) -> None:
        """With the headers of Starlette's HTTPException."""
        answer = serve_bridge_http.get("/failing", params={"kind": "http"})
        assert (answer.status_code, answer.headers["x-why"]) == (451, "law")

    def test_an_answer_that_breaks_off_is_no_whole_one(self, serve_bridge_front: str) -> None:
        """The client can tell that something is missing."""
        with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False, verify=False) as http:
            http.get(f"{serve_bridge_front}/broken")

    @pytest.mark.parametrize("query", ["", "?raised"], ids=["returned", "raised"])
    def test_a_header_with_a_line_end_is_refused(self, serve_bridge_http: httpx.Client, query: str) -> None:
        """A backend cannot be made to write headers by the text it puts into one."""
        answer = serve_bridge_http.get(f"/injecting{query}")
        assert answer.status_code == 500
        assert "x-injected" not in answer.headers

    def test_an_empty_control_header_is_a_400(self, serve_bridge_http: httpx.Client) -> None:
        """It means nothing, so nothing is guessed."""
        assert serve_bridge_http.get("/echo", headers={"x-serve-shard-key": ""}).status_code == 400

    def test_control_headers_stay(self, serve_bridge_http: httpx.Client) -> None:
        """User code must not take for ours what a client has written."""
        given = {"x-serve-shard-key": "k", "x-serve-other": "1"}
        names = {name for name, _ in serve_bridge_http.get("/echo", headers=given).json()["headers"]}
        assert not any(name.startswith("x-serve-") for name in names)
