"""Django: backends that use the ORM, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.adapters.django_manage import Project
from tests.adapters.django_postgres import postgres
from tests.waiting import wait_until_equal

psycopg = pytest.importorskip("psycopg")

ITEMS = 3
CALLS = 20
OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = 'postgres' AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture(scope="module")
def database() -> Iterator[dict[str, Any]]:
    """A server."""
    with postgres() as database:
        yield database


@pytest.fixture(scope="module")
def sql(database: dict[str, Any]) -> Iterator[Any]:
    """An operator's connection to it."""
    with psycopg.connect(host=database["HOST"], dbname=database["NAME"], user=database["USER"], autocommit=True) as sql:
        yield sql


@pytest.fixture(scope="module")
def project(database: dict[str, Any], sql: Any, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose connections end with each request, as is Django's default."""
    project = Project(tmp_path_factory.mktemp("django") / "site", database)
    project.manage("migrate", "--verbosity", "0")
    for number in range(ITEMS):
        sql.execute("INSERT INTO shop_item (name) VALUES (%s)", [f"item {number}"])
    return project


@pytest.fixture(scope="module")
def instance(
    project: Project, database: dict[str, Any], ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serve.Client]:
    """An instance on Ray with the project's backends, deployed by its own command; connections are kept."""
    kept = Project(tmp_path_factory.mktemp("django") / "kept", {**database, "CONN_MAX_AGE": None})
    client = serve.start(name="django-postgres", http_options={"location": "NoServer"})
    kept.manage("serve_bridge", "deploy", "--address", client.address)
    yield client
    client.shutdown()


def connections(sql: Any) -> int:
    """Return how many connections there are but the operator's."""
    return int(sql.execute(OTHERS).fetchone()[0])


def test_the_projects_own_tests_pass(project: Project) -> None:
    """On the test database that Django makes."""
    assert "\nOK" in project.manage("test", "shop", PROJECT_RUNTIME="local")


@pytest.mark.parametrize("endpoint", ["connection", "aconnection"])
def test_no_call_leaves_a_connection(project: Project, sql: Any, endpoint: str) -> None:
    """Of a `def` or `async def` backend; each call has seen the data."""
    program = f"""
from django.db import connections
from serve_bridge.adapters.django import get_handle
connections["default"].connect()
print([get_handle({endpoint!r}).call()[-1] for _ in range({CALLS})])
with connections["default"].cursor() as cursor:
    cursor.execute({OTHERS.replace("%", "%%")!r})
    print(cursor.fetchone()[0])
"""
    # One is the test's own.
    assert project.manage("shell", "--no-imports", "-c", program, PROJECT_RUNTIME="local") == f"{[ITEMS] * CALLS}\n1\n"


@pytest.mark.ray
@pytest.mark.parametrize("endpoint", ["count", "acount"])
def test_a_replica_uses_the_orm(instance: serve.Client, endpoint: str) -> None:
    """Django is set up there before the code is imported, models and all."""
    assert instance.get_handle(endpoint).call() == ITEMS


@pytest.mark.ray
def test_a_kept_connection_serves_the_next_call(instance: serve.Client) -> None:
    """As CONN_MAX_AGE says."""
    handle = instance.get_handle("connection")
    assert len({handle.call()[0] for _ in range(CALLS)}) == 1


@pytest.mark.ray
@pytest.mark.parametrize("endpoint", ["connection", "aconnection"])
def test_an_idle_connection_that_was_cut_breaks_no_call(instance: serve.Client, sql: Any, endpoint: str) -> None:
    """The replica finds out before it uses it, whether or not CONN_HEALTH_CHECKS is set."""
    handle = instance.get_handle(endpoint)
    assert handle.call()[-1] == ITEMS
    sql.execute(OTHERS.replace("count(*)", "pg_terminate_backend(pid)"))
    wait_until_equal(lambda: connections(sql), 0)
    assert handle.call()[-1] == ITEMS


@pytest.mark.ray
def test_a_second_deploy_changes_nothing(instance: serve.Client, project: Project) -> None:
    """The code is the same, wherever the project's copy lies."""
    printed = project.manage("serve_bridge", "deploy", "--dry-run", "--address", instance.address)
    assert "nothing to change" in printed or "update backend" in printed
