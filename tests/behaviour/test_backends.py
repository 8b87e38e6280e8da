"""Backends: creating, updating, listing and deleting them."""

from __future__ import annotations

from collections import Counter as Tally
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.serving import Serving
from tests.support.waiting import wait_until


def test_a_function_serves(serving: Serving) -> None:
    """It gets each request."""
    assert serving(backends.data).handle.call(5) == 5


def test_a_lambda_that_uses_a_variable_serves(serving: Serving) -> None:
    """Code travels with what it closes over."""
    greeting = "hello"
    assert serving(lambda request: f"{greeting} {request.data}").handle.call("ada") == "hello ada"


def test_a_class_is_constructed_once_with_its_arguments(serving: Serving) -> None:
    """Positional ones and keywords."""
    handle = serving(backends.Counter, start=40).handle
    assert [handle.call(), handle.call()] == [41, 42]
    assert serving(backends.Counter, 10).handle.call() == 11


def test_an_import_path_serves(serving: Serving) -> None:
    """The caller need not be able to import it."""
    assert serving("tests.behaviour.support.backends:Counter", 1).handle.call() == 2


def test_large_constructor_arguments_arrive(serving: Serving) -> None:
    """A model's weights, say."""

    class Sized:
        def __init__(self, weights: bytes) -> None:
            self.size = len(weights)

        def __call__(self, request: Any) -> int:
            return self.size

    assert serving(Sized, b"x" * 5_000_000).handle.call() == 5_000_000


def test_create_backend_returns_when_every_replica_is_ready(client: serve.Client, serving: Serving) -> None:
    """Nothing has to be waited for."""
    name = serving.backend(backends.who, config={"num_replicas": 3})
    replicas = client.status()["backends"][name]["replicas"]
    assert list(replicas.values()) == ["ready"] * 3


def test_requests_are_spread_over_replicas(serving: Serving) -> None:
    """Load balancing across available replicas."""
    handle = serving(backends.who, config={"num_replicas": 2}).handle
    answers = Tally(handle.call() for _ in range(40))
    assert len(answers) == 2
    assert min(answers.values()) >= 10


def test_a_replica_knows_where_it_is(serving: Serving) -> None:
    """get_replica_context names backend and replica."""
    served = serving(lambda request: serve.get_replica_context().backend)
    assert served.handle.call() == served.name


def test_there_is_no_replica_context_outside_of_replicas() -> None:
    """An error says so."""
    with pytest.raises(RuntimeError, match="inside a replica only"):
        serve.get_replica_context()


def test_a_duplicate_name_is_refused_and_the_first_goes_on(client: serve.Client, serving: Serving) -> None:
    """update_backend is how code is changed."""
    served = serving(backends.version_1)
    with pytest.raises(ValueError, match=r"exists already.*update_backend"):
        client.create_backend(served.name, backends.version_2)
    assert served.handle.call() == "v1"


def test_list_backends_shows_resolved_options(client: serve.Client, serving: Serving) -> None:
    """8 for `def` and 100 for `async def`, not None."""

    async def asynchronous(request: Any) -> None: ...

    plain, other = serving.backend(backends.data), serving.backend(asynchronous)
    listed = client.list_backends()
    assert (listed[plain].max_concurrent_queries, listed[other].max_concurrent_queries) == (8, 100)
    assert client.get_backend_config(plain) == listed[plain]


def test_an_unknown_backend_has_no_config(client: serve.Client) -> None:
    """It is a KeyError and a ValueError, and names those there are."""
    with pytest.raises(serve.BackendNotFound, match="no backend 'missing'") as caught:
        client.get_backend_config("missing")
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)


def test_a_deleted_backend_is_gone(client: serve.Client, serving: Serving) -> None:
    """Its name can be used again."""
    name = serving.backend(backends.version_1)
    client.delete_backend(name)
    assert name not in client.list_backends()
    client.create_backend(name, backends.version_2)
    assert serving.endpoint(name).handle.call() == "v2"


def test_deleting_an_unknown_backend_does_nothing(client: serve.Client) -> None:
    """As with endpoints."""
    client.delete_backend("missing")


@pytest.mark.parametrize("force", [False, True])
def test_a_backend_in_a_split_cannot_be_deleted(client: serve.Client, serving: Serving, force: bool) -> None:
    """Weight 0 counts too; the error names the endpoint."""
    served, idle = serving(backends.version_1), serving.backend(backends.version_2)
    client.set_traffic(served.name, {served.name: 1.0, idle: 0.0})
    for backend in (served.name, idle):
        with pytest.raises(ValueError, match=f"still gets traffic of: {served.name}"):
            client.delete_backend(backend, force)
    assert served.handle.call() == "v1"


def test_a_shadow_is_deleted_with_force_only(client: serve.Client, serving: Serving) -> None:
    """It goes from the endpoint then."""
    served, shadow = serving(backends.version_1), serving.backend(backends.version_2)
    client.shadow_traffic(served.name, shadow, 1.0)
    with pytest.raises(ValueError, match="still gets traffic"):
        client.delete_backend(shadow)
    client.delete_backend(shadow, force=True)
    assert client.list_endpoints()[served.name]["shadows"] == {}
    assert served.handle.call() == "v1"


def test_deleting_a_backend_lets_it_finish(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """What it has accepted is answered."""
    from concurrent.futures import ThreadPoolExecutor

    served = serving(backends.Gate, tmp_path)
    with ThreadPoolExecutor(2) as threads:
        answer = threads.submit(served.handle.call, 1)
        wait_until((tmp_path / "begun-1").exists)
        client.delete_endpoint(served.name)
        deleted = threads.submit(client.delete_backend, served.name)
        (tmp_path / "open").touch()
        assert answer.result(20) == 1
        deleted.result(20)


# update_backend


def test_update_backend_replaces_the_code(client: serve.Client, serving: Serving, http: httpx.Client) -> None:
    """When it returns, every answer is the new version's."""
    served = serving(backends.version_1, config={"num_replicas": 2})
    client.update_backend(served.name, backends.version_2)
    assert {served.handle.call() for _ in range(10)} == {"v2"}
    assert {http.get(served.route).text for _ in range(10)} == {"v2"}


def test_update_backend_takes_new_constructor_arguments(client: serve.Client, serving: Serving) -> None:
    """They are the new code's."""
    served = serving(backends.Counter, 1)
    client.update_backend(served.name, backends.Counter, start=100)
    assert served.handle.call() == 101


def test_update_backend_keeps_the_options_it_is_not_given(client: serve.Client, serving: Serving) -> None:
    """And changes those it is."""
    served = serving(backends.version_1, config={"num_replicas": 2, "threads": 3})
    client.update_backend(served.name, backends.version_2, config={"threads": 4})
    config = client.get_backend_config(served.name)
    assert (config.num_replicas, config.threads) == (2, 4)


def test_update_backend_with_code_that_cannot_start_keeps_the_old(client: serve.Client, serving: Serving) -> None:
    """The call raises with the replica's traceback."""

    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no weights")

        def __call__(self, request: Any) -> None: ...

    served = serving(backends.version_1)
    with pytest.raises(serve.BackendStartError, match="no weights"):
        client.update_backend(served.name, Broken)
    assert served.handle.call() == "v1"
    assert list(client.status()["backends"][served.name]["replicas"].values()) == ["ready"]


def test_update_backend_of_an_unknown_one_starts_nothing(client: serve.Client) -> None:
    """It creates none."""
    with pytest.raises(serve.BackendNotFound, match="'missing'"):
        client.update_backend("missing", backends.version_1)
    assert "missing" not in client.list_backends()


# What does not start


def test_a_constructor_that_raises_is_reported_and_the_name_is_free(client: serve.Client, serving: Serving) -> None:
    """With the replica's own traceback as text."""

    class Broken:
        def __init__(self, file: str) -> None:
            raise FileNotFoundError(f"no such model: {file}")

        def __call__(self, request: Any) -> None: ...

    name = serving.name()
    with pytest.raises(serve.BackendStartError, match="no such model: a") as caught:
        client.create_backend(name, Broken, "a.bin")
    assert "in __init__" in caught.value.remote_traceback
    assert caught.value.backend == name
    client.create_backend(name, backends.version_1)


def test_a_constructor_that_hangs_is_given_up(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """Within start_timeout_s, which the error names."""

    class Stuck:
        def __init__(self, end: Path) -> None:
            wait_until(end.exists, 60)

        def __call__(self, request: Any) -> None: ...

    name = serving.name()
    with pytest.raises(serve.BackendStartError, match=r"start_timeout_s=2"):
        client.create_backend(name, Stuck, tmp_path / "end", config={"start_timeout_s": 2})
    (tmp_path / "end").touch()
    assert name not in client.list_backends()


def test_a_constructor_that_calls_sys_exit_is_reported(client: serve.Client, serving: Serving) -> None:
    """It ends no process of anybody else."""

    class Leaves:
        def __init__(self) -> None:
            raise SystemExit("I leave")

        def __call__(self, request: Any) -> None: ...

    with pytest.raises(serve.BackendStartError, match="I leave"):
        client.create_backend(serving.name(), Leaves)


def test_a_module_that_is_missing_in_the_replica_is_named(client: serve.Client, serving: Serving) -> None:
    """Import paths are resolved there."""
    with pytest.raises(serve.BackendStartError, match="no_such_module"):
        client.create_backend(serving.name(), "no_such_module:Thing")


def test_all_replicas_start_or_none(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """One of three that fails takes the others with it."""

    class OnceOnly:
        def __init__(self, directory: Path) -> None:
            (directory / "taken").mkdir()

        def __call__(self, request: Any) -> None: ...

    name = serving.name()
    with pytest.raises(serve.BackendStartError, match="FileExistsError"):
        client.create_backend(name, OnceOnly, tmp_path, config={"num_replicas": 3})
    assert name not in client.status()["backends"]


def test_an_argument_that_cannot_be_pickled_is_the_callers_error(client: serve.Client, serving: Serving) -> None:
    """It names the path to it; nothing was started."""
    import threading

    name = serving.name()
    with pytest.raises(serve.SerializationError, match=r"init_args\[0\]\['locks'\]\[1\]"):
        client.create_backend(name, backends.Counter, {"locks": [1, threading.Lock()]})
    assert name not in client.status()["backends"]
