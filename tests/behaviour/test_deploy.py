"""Deploying what is declared: what is created, updated, left alone and taken away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.cli import verbs as commands
from serve_bridge.user_code.surroundings import SurroundingsSpec
from tests.support.programs import ROOT
from tests.support.projects import Project, project_in
from tests.support.waiting import wait_until


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
    """With the traffic that the operator has set."""
    declared = [backend(endpoint="e", route="/old"), backend("v2", name="c", endpoint="e")]
    deployed(declared[0])
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
    deployed(backend(endpoint="e"))
    deployed(backend(endpoint="e"), backend(name="old", endpoint="e"))
    client.set_traffic("e", {"old": 1})
    deployment = serve.deploy(backend(endpoint="e"), client=client, prune=True)
    assert deployment.changes == ()
    assert "old" in str(deployment)
    client.set_traffic("e", {"b": 1})
    assert deployed(backend(endpoint="e"), prune=True) == ["delete backend"]


# Declared traffic


def endpoint(**options: Any) -> Any:
    """Return a declared endpoint with two versions behind it, and the versions."""
    versions = backend("v1", name="v1", endpoint="e"), backend("v2", name="v2", endpoint="e")
    return *versions, serve.endpoint("e", **options)


def test_a_declared_endpoint_is_created_as_it_says(client: serve.Client, deployed: Any, http: httpx.Client) -> None:
    """Its route, methods, time and traffic."""
    declared = endpoint(route="/e", methods=["POST"], timeout_s=7, traffic={"v1": 0, "v2": 1}, shadows={"v1": 0.5})
    assert deployed(*declared) == ["create backend", "create backend", "create endpoint"]
    assert http.post("/e").text == "v2"
    assert client.list_endpoints() == {
        "e": {
            "route": "/e",
            "methods": ["POST"],
            "timeout_s": 7.0,
            "traffic": {"v1": 0.0, "v2": 1.0},
            "shadows": {"v1": 0.5},
        }
    }


def test_two_versions_of_a_new_endpoint_need_a_split(client: serve.Client, deployed: Any) -> None:
    """Nothing is started before the error."""
    with pytest.raises(serve.ConfigError, match="declare how they share its traffic"):
        deployed(backend(name="v1", endpoint="e"), backend(name="v2", endpoint="e"))
    assert client.list_backends() == {}


def test_a_restart_and_a_deployment_undo_no_release(start: Callable[..., serve.Client]) -> None:
    """The new instance has the traffic that is declared."""
    declared = endpoint(traffic={"v2": 1})
    for _ in range(2):
        client = start()
        client.deploy(*declared)
        assert client.get_handle("e").call() == "v2"
        client.shutdown()


def test_the_operators_split_stays_until_the_declared_one_is_asked_for(client: serve.Client, deployed: Any) -> None:
    """The result of the deployment says so."""
    declared = endpoint(traffic={"v1": 1}, shadows={})
    deployed(*declared)
    client.set_traffic("e", {"v2": 1})
    client.shadow_traffic("e", "v1", 0.5)
    deployment = client.deploy(*declared)
    assert deployment.changes == ()
    assert "endpoint e keeps its traffic, 1 v2, 0.5 copies to v1, although 1 v1 is declared" in deployment.notes[0]
    assert client.get_handle("e").call() == "v2"
    assert deployed(*declared, traffic=True) == ["change endpoint"]
    assert client.get_handle("e").call() == "v1"
    assert client.list_endpoints()["e"]["shadows"] == {}
    assert client.deploy(*declared, traffic=True).notes == ()


def test_a_module_declares_endpoints_beside_its_backends(
    client: serve.Client, deployed: Any, project: Project, http: httpx.Client
) -> None:
    """The module need not keep what `serve.endpoint` returns."""
    project.write(
        "shop.backends",
        """
        import serve_bridge as serve
        serve.endpoint("b", route="/words", methods=["PUT"])
        @serve.backend("b")
        def declared(request): return "word"
        """,
    )
    deployed("shop.backends")
    assert http.put("/words").text == "word"
    assert client.status()["endpoints"]["b"]["owner"] == "shop"


# Owners


def test_another_project_cannot_change_what_a_project_deployed(client: serve.Client, deployed: Any) -> None:
    """The error names both; nothing has changed."""
    deployed(backend(), project="shop")
    with pytest.raises(serve.ConfigError, match=r"'blog'.*backend 'b' belongs to project 'shop'.*endpoint 'b' belongs"):
        deployed(backend("v2"), project="blog")
    assert client.get_handle("b").call() == "v1"
    assert deployed(backend("v2"), project="blog", take_over=True) == ["update backend", "change endpoint"]
    assert client.get_handle("b").call() == "v2"
    assert client.status()["backends"]["b"]["owner"] == client.status()["endpoints"]["b"]["owner"] == "blog"


def test_what_is_unchanged_is_taken_over_without_new_replicas(client: serve.Client, deployed: Any) -> None:
    """Only the owner changes."""
    deployed(backend(), project="shop")
    before = replicas(client)
    assert deployed(backend(), project="blog", take_over=True) == ["configure backend", "change endpoint"]
    assert replicas(client) == before
    assert deployed(backend(), project="blog") == []


def test_what_was_made_by_hand_is_taken_over_only_when_asked(client: serve.Client, deployed: Any) -> None:
    """The error says whose it is."""
    client.create_backend("b", lambda request: "by hand")
    client.create_endpoint("b", backend="b")
    with pytest.raises(serve.ConfigError, match=r"backend 'b' was made by hand, endpoint 'b' was made by hand"):
        deployed(backend())
    assert client.get_handle("b").call() == "by hand"
    assert deployed(backend(), take_over=True) == ["update backend", "change endpoint"]
    assert deployed(backend()) == []


def test_pruning_leaves_other_projects_alone(client: serve.Client, deployed: Any) -> None:
    """Each has its own names."""
    deployed(backend(name="theirs"), project="blog")
    deployed(backend(), backend(name="old"), project="shop")
    assert deployed(backend(), project="shop", prune=True) == ["delete endpoint", "delete backend"]
    assert set(client.list_backends()) == set(client.list_endpoints()) == {"b", "theirs"}


def test_status_shows_owner_version_and_time(client: serve.Client, deployed: Any) -> None:
    """The default owner is the top package."""
    before = time.time()
    deployed(backend("2026.1"))
    status = client.status()
    shown = status["backends"]["b"]
    assert (shown["owner"], shown["version"]) == ("tests", "2026.1")
    assert before <= shown["deployed_at"] == status["endpoints"]["b"]["deployed_at"] <= time.time()


# Interrupted deployments


SLOW = """
import pathlib, time
import serve_bridge as serve

@serve.backend("first")
def first(request): return "first"

@serve.backend("slow")
class Slow:
    def __init__(self):
        while not pathlib.Path({go!r}).exists():
            time.sleep(0.01)
    def __call__(self, request): return "slow"
"""


def unfinished(client: serve.Client, project: str = "shop") -> list[dict[str, Any]]:
    """Return what `status` says of the unfinished deployments of *project*."""
    return [each for each in client.status()["deployments"] if each["project"] == project]


@pytest.fixture
def interrupted(client: serve.Client, deployed: Any, project: Project) -> Callable[[int], tuple[int, str]]:
    """Interrupts a deployment in its second step, which is completed then; returns exit code and error output."""

    def interrupt(number: int) -> tuple[int, str]:
        go = project.directory / "go"
        project.write("shop.backends", SLOW.format(go=str(go)))
        command = [sys.executable, "-m", "serve_bridge", "deploy", "--address", client.address, "shop.backends"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{project.directory}"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            wait_until(lambda: [each["begun"] for each in unfinished(client)] == [["create backend slow"]])
            assert unfinished(client)[0]["running"] is True
            process.send_signal(number)
            _, told = process.communicate(timeout=30)
        wait_until(lambda: unfinished(client)[0]["running"] is False)
        text = commands.status(client).text
        assert "deployment of project shop of " in text
        assert "was interrupted at: create backend slow; not begun: create endpoint first" in text
        go.touch()
        return process.returncode, told

    return interrupt


def test_ctrl_c_says_what_goes_on_and_what_does_not(client: serve.Client, deployed: Any, interrupted: Any) -> None:
    """The next deployment finishes it; until then `status` shows it."""
    code, told = interrupted(signal.SIGINT)
    assert (code, told.count("\n")) == (130, 1)
    assert "Done: create backend first; the instance completes: create backend slow; " in told
    assert "not begun: create endpoint first, create endpoint slow" in told
    assert deployed("shop.backends") == ["create endpoint", "create endpoint"]
    assert client.get_handle("slow").call() == "slow"
    assert unfinished(client) == []


def test_the_next_deployment_withdraws_what_is_not_declared(
    client: serve.Client, deployed: Any, interrupted: Any
) -> None:
    """Whatever has ended the process; another project's deployment leaves it alone."""
    interrupted(signal.SIGKILL)
    deployed(backend(name="theirs"), project="blog")
    assert deployed(backend(), project="shop") == [
        "create backend",
        "create endpoint",
        "delete backend",
        "delete backend",
    ]
    assert set(client.list_backends()) == {"b", "theirs"}
    assert unfinished(client) == []


def test_a_deployment_that_failed_is_shown_until_the_next(client: serve.Client, deployed: Any) -> None:
    """With its reason."""

    @serve.backend("broken")
    class Broken:
        def __init__(self) -> None:
            raise LookupError("no model")

        def __call__(self, request: Any) -> None: ...

    with pytest.raises(serve.DeploymentError):
        deployed(backend(name="made"), Broken)
    (shown,) = unfinished(client, "tests")
    assert shown["begun"] == ["create backend broken"]
    assert "no model" in shown["failure"]
    assert "\n" not in shown["failure"]
    assert deployed(backend()) == ["create backend", "create endpoint", "delete backend"]
    assert unfinished(client, "tests") == []


# What is deployed


@pytest.mark.parametrize("how", [{}, {"prune": True}])
def test_a_deployment_of_nothing_is_an_error(client: serve.Client, deployed: Any, how: dict[str, Any]) -> None:
    """It would delete everything with `prune`."""
    deployed(backend())
    with pytest.raises(serve.ConfigError, match="at least one module"):
        deployed(**how)
    assert set(client.list_backends()) == {"b"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", "module 'shop.empty' declares nothing: put"),
        ("from shop.backends import declared", "name the module that declares it, 'shop.backends'"),
    ],
)
def test_a_module_without_declarations_is_an_error(
    client: serve.Client, deployed: Any, project: Project, source: str, text: str
) -> None:
    """Before anything is pruned."""
    project.write("shop.backends", "import serve_bridge as serve\n@serve.backend('b')\ndef declared(request): ...")
    project.write("shop.empty", source)
    deployed("shop.backends")
    with pytest.raises(serve.ConfigError, match=text):
        deployed("shop.empty", prune=True)
    assert set(client.list_backends()) == set(client.list_endpoints()) == {"b"}


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


SHOP = """
import serve_bridge as serve
from shop import words
@serve.backend("b"{options})
def declared(request): return words.WORD
"""


def shop(project: Project, word: str, options: str = "") -> str:
    """Write a package with a backend that answers with the word of another module; return the backend's module."""
    project.write("shop.words", f"WORD = {word!r}")
    project.write("shop.backends", SHOP.format(options=options))
    return "shop.backends"


def test_a_changed_helper_is_deployed(client: serve.Client, deployed: Any, project: Project) -> None:
    """Although the backend's own file is the same."""
    deployed(shop(project, "one"))
    assert deployed(shop(project, "two")) == ["update backend"]
    assert client.get_handle("b").call() == "two"


def test_another_checkout_of_the_same_code_is_not_deployed(client: serve.Client, deployed: Any, tmp_path: Path) -> None:
    """The replicas stay; the result says where later ones find the code."""
    for directory in (tmp_path / "one", tmp_path / "two"):
        directory.mkdir()
    with project_in(tmp_path / "one") as project:
        deployed(shop(project, "hello"))
    before = replicas(client)
    with project_in(tmp_path / "two") as project:
        deployment = client.deploy(shop(project, "hello"))
        assert deployment.changes == ()
        assert deployment.notes == (f"new replicas of backend b import from {tmp_path / 'two'}",)
        assert client.deploy("shop.backends").notes == ()
        assert replicas(client) == before
        shutil.rmtree(tmp_path / "one")
        client.update_backend_config("b", {"num_replicas": 2})
        handle = client.get_handle("b")
        assert {handle.call() for _ in range(8)} == {"hello"}


def test_a_version_opts_out_of_the_code(client: serve.Client, deployed: Any, project: Project) -> None:
    """Its text alone decides."""
    deployed(shop(project, "one", ", version=1"))
    assert deployed(shop(project, "two", ", version=1")) == []
    assert deployed(shop(project, "two", ", version=2")) == ["update backend"]


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
