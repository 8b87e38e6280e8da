"""The cases of the Autobahn test suite, as `kosoku` runs them, against an endpoint that echoes.

The edge is ours: behind the proxy no case may fail or end unclean. Behind uvicorn frames are uvicorn's, so what fails
there must fail without us as well. `make conformance` runs all cases, which takes minutes; `make test` the quick ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

import serve_bridge as serve
from tests.adapters.support.websocket_fronts import FRONTS, NAME, echo, websocket_url
from tests.support.programs import run_program

ALL = "CONFORMANCE" in os.environ
LIMIT_S = 3600 if ALL else 240
COMPRESSED = [*(f"12.{group}" for group in range(1, 6)), *(f"13.{group}" for group in range(1, 8))]
QUICK = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
ON_PROXY = [*QUICK, *(f"{group}.{'*' if ALL else 1}" for group in COMPRESSED)]
SHORT = [" ".join(f"{group}.{case}" for case in range(1, 10)) for group in COMPRESSED]
ON_ADAPTERS = [*QUICK, *SHORT] if ALL else ["1.*", "5.*", "7.*", "9.1.6", "9.2.6", "12.1.1"]
AT_ONCE = 1 if ALL else 8
"""Cases have 20 seconds each, of which the longest need most."""

# A process of its own, because it shadows modules that others import; its threads may crash the interpreter's end.
KOSOKU = """
import asyncio, json, os, sys
from kosoku import FailureError, run_fuzzingclient
try:
    results = asyncio.run(run_fuzzingclient(sys.argv[1], sys.argv[3:], concurrency=int(sys.argv[2])))
except FailureError as failure:
    results = failure.results
verdicts = [[r.case_id, r.passed, r.behavior.value, r.behavior_close.value, r.result_close] for r in results]
print(json.dumps(verdicts), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module", autouse=True)
def endpoint(engine: serve.Client) -> Iterator[None]:
    """Behind all fronts."""
    engine.create_backend(NAME, echo)
    engine.create_endpoint(NAME, backend=NAME, route=f"/{NAME}")
    yield
    engine.delete_endpoint(NAME)
    engine.delete_backend(NAME, force=True)


def failures(engine: serve.Client, front: str, cases: list[str]) -> dict[str, list[str]]:
    """Return what is wrong with each of *cases*: "NON-STRICT" is a verdict of conformance, "UNCLEAN" is none."""
    with FRONTS[front](engine) as url:
        printed = run_program(KOSOKU, websocket_url(url), str(AT_ONCE), *cases, limit_s=LIMIT_S)
    results = json.loads(printed)
    assert results
    return {case: verdict for case, passed, *verdict in results if not passed or "UNCLEAN" in verdict}


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("cases", ON_PROXY if ALL else [" ".join(ON_PROXY)])
def test_the_proxy_passes_every_case(engine: serve.Client, cases: str) -> None:
    """None fails, and each connection is closed cleanly."""
    assert failures(engine, "proxy", cases.split()) == {}


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("cases", ON_ADAPTERS if ALL else [" ".join(ON_ADAPTERS)])
def test_an_adapter_fails_no_case_that_its_server_passes(engine: serve.Client, cases: str) -> None:
    """By itself uvicorn fails 7.1.5: it takes a close in the middle of a message for an error."""
    alone = failures(engine, "bare", cases.split())
    for front in ("starlette", "django"):
        assert failures(engine, front, cases.split()) == alone
