"""Views of every framework that call endpoints: the id of their request, and what is not there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.test import override_settings

import serve_bridge as serve
from tests.adapters.support.django_site import MIDDLEWARE
from tests.adapters.support.view_sites import MISSING, SITES, Ask, seen

UNBOUND = "starlette"
"""A site in which nothing looks at the request before its view does."""
GONE = "/nowhere/instance.json"
"""An address at which no instance is."""


@pytest.fixture(scope="module")
def address(engine: serve.Client) -> str:
    """The instance, with the endpoint that the views call."""
    if "seen" not in engine.list_endpoints():
        engine.create_backend("seen", seen)
        engine.create_endpoint("seen", backend="seen")
    return engine.address


@pytest.fixture(params=SITES)
def ask(request: pytest.FixtureRequest, address: str) -> Iterator[Ask]:
    """Each framework's application in turn."""
    with _site(request.param, address) as ask:
        yield ask


@pytest.fixture(params=SITES)
def ask_lost(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """The same, where no instance is."""
    with _site(request.param, GONE) as ask:
        yield ask


@contextmanager
def _site(name: str, address: str) -> Iterator[Ask]:
    with (
        override_settings(
            ROOT_URLCONF="tests.adapters.support.view_urls",
            MIDDLEWARE=[MIDDLEWARE],
            ALLOWED_HOSTS=["*"],
            SERVE_BRIDGE={"ADDRESS": address},
        ),
        SITES[name](address) as ask,
    ):
        yield ask


EXECUTED = {"/forwarded": "no", "/called": "unknown"}
"""The header x-serve-executed of a refusal: a view that calls an endpoint has run itself."""


def told(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the headers Retry-After and x-serve-executed of an answer."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return lowered.get("retry-after"), lowered.get("x-serve-executed")


@pytest.mark.parametrize("name", [name for name in SITES if name != UNBOUND])
@pytest.mark.parametrize("given", ["mine-4", "no id, too many words", None])
@pytest.mark.parametrize("path", ["/ids", "/streamed"])
def test_a_view_and_its_calls_have_the_id_of_the_request(address: str, name: str, path: str, given: str | None) -> None:
    """A valid one of the client, otherwise one that the adapter has made; another for the next request."""
    with _site(name, address) as ask:
        found = [json.loads(ask(path, {} if given is None else {"X-Request-Id": given})[2]) for _ in range(2)]
    assert [len(set(ids)) for ids in found] == [1, 1]
    assert (found[0] == found[1] == ["mine-4"] * len(found[0])) is (given == "mine-4")
    assert (found[0] == found[1]) is (given == "mine-4")
    assert given != found[0][0] or given == "mine-4"
    assert serve.request_id() is None


@pytest.mark.parametrize("path", ["/forwarded", "/called"])
def test_a_missing_endpoint_is_a_503(ask: Ask, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """Never a 404, which caches would keep; the log names what is missing, and the answer does not."""
    with caplog.at_level(logging.WARNING, "serve_bridge"):
        status, headers, body = ask(path, {"X-Request-Id": "mine-5"})
    assert (status, *told(headers)) == (503, "1", EXECUTED[path])
    assert MISSING not in body
    (line,) = [each.getMessage() for each in caplog.records if "EndpointNotFound" in each.getMessage()]
    assert f"no endpoint '{MISSING}'" in line
    assert "mine-5" in line or path == "/called"


@pytest.mark.parametrize("path", ["/forwarded", "/called"])
def test_a_missing_instance_is_a_503(ask_lost: Ask, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """The log says where it was looked for."""
    with caplog.at_level(logging.WARNING, "serve_bridge"):
        status, headers, _ = ask_lost(path, {})
    assert (status, *told(headers)) == (503, "1", EXECUTED[path])
    (line,) = [each.getMessage() for each in caplog.records if "NotConnected" in each.getMessage()]
    assert GONE in line


@pytest.mark.parametrize("path", ["/forwarded", "/called"])
@pytest.mark.parametrize("site", SITES)
def test_a_copied_file_that_others_can_read_is_a_503(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, site: str, path: str
) -> None:
    """The log has the reason and the cure."""
    copy = tmp_path / "copied.json"
    copy.write_bytes(Path(address).read_bytes())
    copy.chmod(0o644)
    with _site(site, str(copy)) as ask, caplog.at_level(logging.WARNING, "serve_bridge"):
        status, headers, _ = ask(path, {})
    assert (status, *told(headers)) == (503, "1", EXECUTED[path])
    (line,) = [each.getMessage() for each in caplog.records if "NotConnected" in each.getMessage()]
    assert f"chmod 600 {copy}" in line


def test_a_view_may_catch_what_is_missing(ask: Ask) -> None:
    """By the type that the error has everywhere."""
    assert ask("/caught", {})[2] == "caught"
