"""Django: backends that use the ORM, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import serve_bridge as serve
from tests.adapters.support.django_manage import Project
from tests.adapters.support.django_postgres import postgres
from tests.support.waiting import wait_until_equal

psycopg = pytest.importorskip("psycopg")

ITEMS = 3
CALLS = 20
ONCE, KEPT = "project-once", "project-kept"
FOUND = "FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()"


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
    project = Project(tmp_path_factory.mktemp("django") / "site", {**database, "OPTIONS": {"application_name": ONCE}})
    project.manage("migrate", "--verbosity", "0")
    for number in range(ITEMS):
        sql.execute("INSERT INTO shop_item (name) VALUES (%s)", [f"item {number}"])
    return project


@pytest.fixture(scope="module")
def keeping(project: Project, database: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same project, but that its connections are kept."""
    options = {"CONN_MAX_AGE": None, "OPTIONS": {"application_name": KEPT}}
    return Project(tmp_path_factory.mktemp("django") / "kept", {**database, **options})


@pytest.fixture(scope="module")
def instance(keeping: Project, ray_cluster: Any) -> Iterator[serve.Client]:
    """An instance on Ray with the backends of that, deployed by its own command."""
    client = serve.start(name="django-postgres", http_options={"location": "NoServer"})
    keeping.manage("serve_bridge", "deploy", "--address", client.address)
    yield client
    client.shutdown()


def test_the_projects_own_tests_pass(project: Project) -> None:
    """On the test database that Django makes."""
    assert "\nOK" in project.manage("test", "shop", PROJECT_RUNTIME="local")


@pytest.mark.parametrize("endpoint", ["connection", "aconnection"])
def test_no_call_leaves_a_connection(project: Project, endpoint: str) -> None:
    """Of a `def` or `async def` backend; each call has seen the data."""
    program = f"""
from django.db import connection
from serve_bridge.adapters.django import get_handle
from tests.support.waiting import wait_until_equal
def connections():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) {FOUND}", [{ONCE!r}])
        return cursor.fetchone()[0]
print([get_handle({endpoint!r}).call()[-1] for _ in range({CALLS})])
wait_until_equal(connections, 0)  # the server ends its process some time after the connection is closed
"""
    assert project.manage("shell", "--no-imports", "-c", program, PROJECT_RUNTIME="local") == f"{[ITEMS] * CALLS}\n"


def test_an_open_call_that_is_idle_has_no_connection(project: Project) -> None:
    """A stream or a WebSocket may be open for hours."""
    program = f"""
from django.db import connection
from serve_bridge.adapters.django import get_handle
from tests.support.waiting import wait_until_equal
def connections():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) {FOUND}", [{ONCE!r}])
        return cursor.fetchone()[0]
items = get_handle("watch").stream()
print(next(items))
wait_until_equal(connections, 0)
items.close()
"""
    assert project.manage("shell", "--no-imports", "-c", program, PROJECT_RUNTIME="local") == f"{ITEMS}\n"


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
    sql.execute(f"SELECT pg_terminate_backend(pid) {FOUND}", [KEPT])
    wait_until_equal(lambda: sql.execute(f"SELECT count(*) {FOUND}", [KEPT]).fetchone(), (0,))
    assert handle.call()[-1] == ITEMS


@pytest.mark.ray
def test_a_second_deploy_changes_nothing(instance: serve.Client, keeping: Project) -> None:
    """From a process of its own: what it finds declared is what runs."""
    assert "nothing to change" in keeping.manage("serve_bridge", "deploy", "--address", instance.address)
