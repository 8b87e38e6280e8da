"""What sentry-sdk makes of one failed request: one event in each process, with a name that groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import pytest

from tests.support.programs import ROOT

STARLETTE: Final = tuple(map(int, version("starlette").split(".")[:2]))

LIMIT_S: Final = 100
SITES: Final = (
    *("flask", "django", "async_django", "starlette", "starlette_mount", "starlette_middleware", "fastapi"),
    *("wsgi", "asgi", "websocket", "call_in_a_view"),
)
LOGGED: Final = ("starlette_middleware", "wsgi", "asgi", "websocket")
"""Sites without a framework to raise a failure in."""
UNNAMED: Final = "generic WSGI request"
"""What sentry-sdk calls each request to a plain WSGI application."""

Told = Mapping[str, Any]


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `sentry_site` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.support.sentry_site", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture(scope="module")
def one_process(nothing_left: None) -> Told:
    """What is reported where web application and backend share a process."""
    with start("web") as process:
        printed, _ = process.communicate(timeout=LIMIT_S)
    return dict(json.loads(printed))


@pytest.fixture(scope="module")
def two_processes(nothing_left: None) -> tuple[Told, Told]:
    """What the web application's process reports, and what the replica's does."""
    with start("replica") as replica:
        assert replica.stdout is not None
        address = json.loads(replica.stdout.readline())
        with start("web", address) as process:
            printed, _ = process.communicate(timeout=LIMIT_S)
        told, _ = replica.communicate("\n", timeout=LIMIT_S)
    return json.loads(printed), json.loads(told)


@pytest.mark.parametrize("site", [*SITES, "proxy"])
def test_a_failure_in_the_same_process_is_one_event(one_process: Told, site: str) -> None:
    """Whatever reports it, the framework or the log."""
    assert one_process[site]["status"] == 500
    (failure,) = one_process[site]["failures"]
    assert failure["types"]


@pytest.mark.parametrize("site", SITES)
def test_a_failure_in_another_process_is_one_event_of_the_web_application(
    two_processes: tuple[Told, Told], site: str
) -> None:
    """It has the exception, whether it was raised or logged."""
    web, _ = two_processes
    assert web[site]["status"] == 500
    (failure,) = web[site]["failures"]
    assert {"BackendError", "LookupError"} & set(failure["types"])


def test_a_failure_is_one_event_of_the_replicas_process(two_processes: tuple[Told, Told]) -> None:
    """It has the exception itself; a failed call of a handle is its caller's to report."""
    _, replica = two_processes
    requests = [failure for failure in replica["failures"] if failure["types"] == ["LookupError"]]
    assert len(replica["failures"]) == len(requests) == len(SITES)  # a request of each site but one, and the proxy's


def test_a_logged_failure_is_grouped_by_its_backend(two_processes: tuple[Told, Told]) -> None:
    """The template of the record names the backend, and the request's id is an argument."""
    web, replica = two_processes
    logged = [web[site]["failures"][0]["template"] for site in LOGGED]
    assert {*logged, *(each["template"] for each in replica["failures"])} == {"backend 'failing' failed (request %s)"}


@pytest.mark.parametrize("site", SITES)
def test_requests_of_a_route_have_one_name(one_process: Told, site: str) -> None:
    """The name is that of the route or the view, and holds no value of the path."""
    if site in ("starlette", "websocket") and STARLETTE < (1, 7):
        pytest.skip("Starlette before 1.7 tells nobody which of its routes it took")
    (failure,) = one_process[site]["failures"]
    names = {failure["transaction"], *one_process[site]["transactions"]}
    assert all("failing" in name or name == UNNAMED for name in names), names
    assert not any("7" in name for name in names), names
