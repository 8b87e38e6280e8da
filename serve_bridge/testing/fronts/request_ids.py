"""Tests of the id of a request: in the answer, and in user code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from serve_bridge.testing.fronts.front import Front


class RequestIdContract(Front):
    """Every request has one id."""

    @pytest.mark.parametrize("path", ["/echo", "/failing?kind=error"])
    def test_a_request_id_is_kept(self, serve_bridge_http: httpx.Client, path: str) -> None:
        """A valid id of the client is in the answer, also if the request fails."""
        answer = serve_bridge_http.get(path, headers={"x-request-id": "mine-1"})
        assert answer.headers.get_list("x-request-id") == ["mine-1"]

    @pytest.mark.parametrize("path", ["/echo", "/failing?kind=error"])
    def test_a_request_id_is_made(self, serve_bridge_http: httpx.Client, path: str) -> None:
        """Each request gets a new id if the client's is not valid."""
        given = {"x-request-id": "no id, too many words"}
        ids = {serve_bridge_http.get(path, headers=given).headers["x-request-id"] for _ in range(2)}
        assert len(ids) == 2
        assert given["x-request-id"] not in ids

    @pytest.mark.parametrize("given", ["mine-2", "no id, too many words", None])
    def test_user_code_knows_the_request_id(self, serve_bridge_http: httpx.Client, given: str | None) -> None:
        """`serve.request_id()` and the header have the id in the answer, whether the client sent an id or not."""
        answer = serve_bridge_http.get("/echo", headers={} if given is None else {"x-request-id": given})
        known = answer.headers["x-request-id"]
        seen = answer.json()
        assert (seen["request_id"], ids_of(seen)) == (known, [known])


def ids_of(seen: Mapping[str, Any]) -> list[str]:
    """Return the values of the header X-Request-Id in *seen*, the answer of `/echo`."""
    return [value for name, value in seen["headers"] if name == "x-request-id"]
