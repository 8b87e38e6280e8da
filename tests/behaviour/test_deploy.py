"""Deploying what is declared: what is created, updated, left alone and taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.surroundings import SurroundingsSpec
from tests.projects import Project, project_in
from tests.waiting import wait_until


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project."""
    with project_in(tmp_path) as project:
        yield project


@pytest.fixture
def deployed(client: serve.Client) -> Iterator[Callable[..., list[str]]]:
    """Deploys to the shared instance and returns the kinds of the changes; afterwards nothing of it is left."""

    def deploy(*what: Any, **how: Any) -> list[str]:
        return [change.kind for change in serve.deploy(*what, client=client, **how).changes]

    yield deploy
    for endpoint in client.list_endpoints():
        client.delete_endpoint(endpoint)
    for backend in client.list_backends():
        client.delete_backend(backend)


def backend(version: str = "v1", **options: Any) -> Any:
    """Return a backend that says which version it is."""
    options.setdefault("name", "b")

    @serve.backend(version=version, **options)
    def declared(request: Any) -> str:
        return version

    return declared


def replicas(client: serve.Client, name: str = "b") -> set[str]:
    """Return the ids of a backend's replicas."""
    return set(client.status()["backends"][name]["replicas"])


def test_a_deployed_backend_answers(client: serve.Client, deployed: Any, http: httpx.Client) -> None:
    """By its handle and at its route."""
    assert deployed(backend(route="/hello")) == ["create backend", "create endpoint"]
    assert client.get_handle("b").call() == "v1"
    assert http.get("/hello").text == "v1"


def test_a_second_deployment_changes_nothing(client: serve.Client, deployed: Any) -> None:
    """The replicas are the same."""
    deployed(backend())
    before = replicas(client)
    assert deployed(backend()) == []
    assert replicas(client) == before


def test_changed_code_is_rolled_out(client: serve.Client, deployed: Any) -> None:
    """And what was given by hand is taken over."""
    deployed(backend())
    assert deployed(backend("v2")) == ["update backend"]
    assert client.get_handle("b").call() == "v2"
    client.update_backend("b", backend("by hand"))
    assert client.status()["backends"]["b"]["fingerprint"] == ""
    assert deployed(backend("v2")) == ["update backend"]
    assert client.get_handle("b").call() == "v2"


def test_force_replaces_the_replicas(client: serve.Client, deployed: Any) -> None:
    """Of what is unchanged too."""
    deployed(backend())
    before = replicas(client)
    assert deployed(backend(), force=True) == ["update backend"]
    wait_until(lambda: not replicas(client) & before)


def test_a_dry_run_changes_nothing(client: serve.Client, deployed: Any) -> None:
    """It only says what would change."""
    assert deployed(backend(), dry_run=True) == ["create backend", "create endpoint"]
    assert client.list_backends() == {}


def test_options_change_without_new_code(client: serve.Client, deployed: Any) -> None:
    """The replica that is there stays; an option that is not declared any more goes back to its default."""
    deployed(backend())
    before = replicas(client)
    assert deployed(backend(num_replicas=2, max_queued_queries=5)) == ["configure backend"]
    assert before < replicas(client)
    assert deployed(backend(num_replicas=2)) == ["configure backend"]
    assert client.get_backend_config("b").max_queued_queries == 1000


def test_options_that_nobody_declares_are_the_operators(client: serve.Client, deployed: Any) -> None:
    """A deployment leaves them alone."""
    deployed(backend())
    client.update_backend_config("b", {"num_replicas": 2})
    assert deployed(backend("v2")) == ["update backend"]
    assert client.get_backend_config("b").num_replicas == 2


def test_a_route_changes_in_place(client: serve.Client, deployed: Any, http: httpx.Client) -> None:
    """With the traffic that somebody has set."""
    declared = [backend(endpoint="e", route="/old"), backend("v2", name="c", endpoint="e")]
    deployed(*declared)
    client.set_traffic("e", {"c": 1})
    client.shadow_traffic("e", "b", 0.5)
    assert deployed(backend(endpoint="e", route="/new"), declared[1]) == ["change endpoint"]
    assert http.get("/old").status_code == 404
    assert http.get("/new").text == "v2"
    assert client.list_endpoints()["e"]["shadows"] == {"b": 0.5}


def test_routes_are_exchanged(deployed: Any, http: httpx.Client) -> None:
    """Neither is in the way of the other."""
    deployed(backend("one", name="one", route="/1"), backend("two", name="two", route="/2"))
    swapped = deployed(backend("one", name="one", route="/2"), backend("two", name="two", route="/1"))
    assert swapped == ["change endpoint", "change endpoint"]
    assert [http.get("/1").text, http.get("/2").text] == ["two", "one"]


def test_pruning_takes_away_what_is_not_declared(client: serve.Client, deployed: Any) -> None:
    """But nothing that was made by hand."""
    client.create_backend("by-hand", lambda request: None)
    client.create_endpoint("by-hand", backend="by-hand")
    deployed(backend(), backend(name="old"))
    assert deployed(backend(), prune=True) == ["delete endpoint", "delete backend"]
    assert set(client.list_backends()) == set(client.list_endpoints()) == {"b", "by-hand"}


def test_a_backend_with_traffic_is_not_pruned(client: serve.Client, deployed: Any) -> None:
    """Somebody has sent it there."""
    deployed(backend(endpoint="e"), backend(name="old", endpoint="e"))
    client.set_traffic("e", {"old": 1})
    deployment = serve.deploy(backend(endpoint="e"), client=client, prune=True)
    assert deployment.changes == ()
    assert "old" in str(deployment)
    client.set_traffic("e", {"b": 1})
    assert deployed(backend(endpoint="e"), prune=True) == ["delete backend"]


def test_a_change_that_fails_says_how_far_it_came(client: serve.Client, deployed: Any) -> None:
    """What was done stays; what failed has changed nothing."""

    @serve.backend("broken")
    class Broken:
        def __init__(self) -> None:
            raise LookupError("no model")

        def __call__(self, request: Any) -> None: ...

    with pytest.raises(serve.DeploymentError, match="no model") as caught:
        deployed(backend(), Broken)
    assert caught.value.failed == "create backend broken"
    assert caught.value.done == ("create backend b",)
    assert caught.value.left == ("create endpoint b", "create endpoint broken")
    assert isinstance(caught.value.__cause__, serve.BackendStartError)
    assert set(client.list_backends()) == {"b"}


def test_a_route_of_somebody_else_stops_everything(client: serve.Client, deployed: Any) -> None:
    """Before anything is started."""
    client.create_backend("by-hand", lambda request: None)
    client.create_endpoint("by-hand", backend="by-hand", route="/taken")
    with pytest.raises(serve.ConfigError, match="'by-hand'"):
        deployed(backend(route="/taken"))
    assert set(client.list_backends()) == {"by-hand"}


def test_user_config_is_compared_by_what_it_says(client: serve.Client, deployed: Any) -> None:
    """A new deployment reconfigures only if it says something else."""

    def declared(value: Any) -> Any:
        @serve.backend("b", user_config=value)
        class Configured:
            def reconfigure(self, user_config: Any) -> None:
                self.value = user_config

            def __call__(self, request: Any) -> Any:
                return self.value

        return Configured

    deployed(declared({"names": {"ada", "bob"}}))
    assert deployed(declared({"names": {"bob", "ada"}})) == []
    assert deployed(declared({"names": {"cy"}})) == ["configure backend"]
    assert client.get_handle("b").call() == {"names": {"cy"}}


def test_a_module_is_deployed_by_its_path(client: serve.Client, deployed: Any, project: Project) -> None:
    """Its replicas import it, and what lies beside it."""
    project.write("shop.words", "WORD = 'hello'")
    project.write(
        "shop.backends",
        """
        import serve_bridge as serve
        from shop import words
        @serve.backend("b")
        def declared(request): return words.WORD
        """,
    )
    deployed("shop.backends")
    assert client.get_handle("b").call() == "hello"


# Surroundings


user = ContextVar("user", default="nobody")


class Session:
    """Surroundings that let code know for whom it runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self) -> None:
        """Nothing has to be made ready."""

    @contextmanager
    def around(self) -> Iterator[None]:
        """Set the name."""
        token = user.set(self.name)
        yield
        user.reset(token)

    @asynccontextmanager
    async def around_async(self) -> Any:
        """Set the name."""
        token = user.set(f"async {self.name}")
        yield
        user.reset(token)


SESSION = SurroundingsSpec("tests.behaviour.test_deploy:Session", {"name": "ada"})


class Whole:
    """Says for whom it runs."""

    def __init__(self) -> None:
        self.constructed = user.get()

    def __call__(self, request: Any) -> list[str]:
        """In a call."""
        return [self.constructed, user.get()]

    def items(self) -> Iterator[str]:
        """In a generator."""
        yield user.get()
        yield user.get()

    async def later(self) -> str:
        """On the loop."""
        return user.get()


def test_user_code_runs_within_its_surroundings(client: serve.Client, deployed: Any) -> None:
    """Its constructor, its calls, its generators."""
    deployed(serve.backend("b", surroundings=SESSION)(type("Local", (Whole,), {})))
    handle = client.get_handle("b")
    assert handle.call() == ["ada", "ada"]
    assert handle.options(method_name="later").call() == "async ada"
    assert list(handle.options(method_name="items").stream()) == ["ada", "ada"]


def test_surroundings_that_fail_are_told(client: serve.Client, deployed: Any) -> None:
    """Where the deployment was asked for."""
    with pytest.raises(serve.DeploymentError, match="missing_surroundings"):
        deployed(backend(surroundings="missing_surroundings:make"))
    assert client.list_backends() == {}
