"""The pytest plugin: instances for a test or for a run, and the fixtures of the contract of adapters.

Rule 1: before a test uses a fixture, no instance is started, and neither Ray nor a framework is imported.
Rule 2: each run has its own names and ports, so parallel runs, as under pytest-xdist, do not collide.
Rule 3: after a fixture has ended, the current client of the process is the same as before.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import pytest

from serve_bridge.api import start
from serve_bridge.client.client import Client
from serve_bridge.client.current import set_current

if TYPE_CHECKING:
    import httpx

    from serve_bridge.client.handle import Handle

RAY_MARKER = "serve_bridge_ray"

pytest.register_assert_rewrite("serve_bridge.testing.contract", "serve_bridge.testing.fronts")
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{RAY_MARKER}: uses the run's instance on Ray; every such test has it")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests on Ray, so that `-m "not serve_bridge_ray"` deselects them."""
    for item in items:
        if {"serve_bridge_ray", "serve_bridge_ray_instance"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(RAY_MARKER)


def unique_name() -> str:
    """Return a unique name for an instance, among tests, processes and users."""
    return f"test-{os.getpid()}-{secrets.token_hex(3)}-{next(_numbers)}"


@contextmanager
def current(client: Client) -> Iterator[Client]:
    """Make *client* the current client of the process inside this context."""
    before = set_current(client)
    try:
        yield client
    finally:
        set_current(before)


@contextmanager
def instance(runtime: Literal["ray", "local"]) -> Iterator[Client]:
    """Run an instance with a proxy on a free port, without changing the current client of the process."""
    before = set_current(None)
    try:
        client = start(runtime=runtime, name=unique_name(), http_options={"port": 0})
    finally:
        set_current(before)
    try:
        yield client
    finally:
        client.shutdown()


@pytest.fixture
def serve_bridge_local() -> Iterator[Client]:
    """An instance inside this process, for one test. It is the current instance, and ends with the test."""
    with instance("local") as client, current(client):
        yield client


@pytest.fixture(scope="session")
def serve_bridge_ray_instance() -> Iterator[Client]:
    """The run's instance on Ray: on the cluster in use by this process, otherwise one found by Ray, or a new one."""
    with instance("ray") as client:
        yield client


@pytest.fixture
def serve_bridge_ray(serve_bridge_ray_instance: Client) -> Iterator[Client]:
    """The run's instance on Ray. It is the current instance; endpoints and backends of the test end with the test."""
    client = serve_bridge_ray_instance
    endpoints, backends = set(client.list_endpoints()), set(client.list_backends())
    with current(client):
        yield client
    for endpoint in client.list_endpoints().keys() - endpoints:
        client.delete_endpoint(endpoint)
    for backend in client.list_backends().keys() - backends:
        client.delete_backend(backend, force=True)


# the contract of adapters


@pytest.fixture(scope="session")
def serve_bridge_contract() -> Iterator[Client]:
    """The instance behind the contract. Override the fixture, and call `deploy_subject`, to use another instance."""
    from serve_bridge.testing.contract import deploy_subject  # late: rule 1

    with instance("local") as client:
        deploy_subject(client)
        yield client


@pytest.fixture(scope="class")
def serve_bridge_front(request: pytest.FixtureRequest, serve_bridge_contract: Client) -> Iterator[str]:
    """The base URL of the front of the test's class."""
    with request.cls.front(serve_bridge_contract) as url:
        yield url


@pytest.fixture(scope="class")
def serve_bridge_http(serve_bridge_front: str) -> Iterator[httpx.Client]:
    """An HTTP client of the front."""
    import httpx  # late: rule 1

    with httpx.Client(base_url=serve_bridge_front, trust_env=False, verify=False, timeout=15) as http:
        yield http


@pytest.fixture
def serve_bridge_subject(serve_bridge_contract: Client) -> Handle:
    """A handle of the contract's backend, which tests ask for the progress of requests."""
    from serve_bridge.testing.contract import SUBJECT  # late: rule 1

    return serve_bridge_contract.get_handle(SUBJECT).options(timeout_s=15)
