"""What only separate processes have: who outlives whom, what is killed, what a cluster has room for."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import RpcError
from ray.experimental.internal_kv import _internal_kv_list

import serve_bridge as serve
from serve_bridge.config.actor_options import ENGINE_OPTIONS, RAY_OPTIONS
from serve_bridge.runtimes.ray.remote_calls import _too_large
from tests.behaviour.support import backends
from tests.conftest import CPUS
from tests.support.programs import children_where, run_program, start_program
from tests.support.serving import Serving
from tests.support.waiting import wait_until, wait_until_equal

pytestmark = pytest.mark.ray

START = """
    import sys, time
    import serve_bridge as serve
    from tests.behaviour.support import backends
    detached = sys.argv[3] == "detached"
    client = serve.start(name=sys.argv[1], address=sys.argv[2], detached=detached, http_options={"port": 0})
    client.create_backend("b", backends.version_1)
    client.create_endpoint("e", backend="b")
    print(client.address, flush=True)
    if sys.argv[4:] == ["stay"]:
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def runtime(ray_cluster: Any) -> str:
    """Processes are what this is about."""
    return "ray"


@pytest.fixture(scope="module")
def address(ray_cluster: Any) -> str:
    """Where the run's cluster is."""
    return str(ray_cluster.get_runtime_context().gcs_address)


@pytest.fixture
def actors(ray_cluster: Any) -> Callable[[], set[str]]:
    """Returns the names of the engine's actors that live."""
    return lambda: {actor["name"] for actor in ray_cluster.util.list_named_actors(all_namespaces=True)}


@pytest.fixture
def new_actors(actors: Callable[[], set[str]]) -> Callable[[], set[str]]:
    """Returns the names of those that live now and did not when the test began."""
    before = actors()
    return lambda: actors() - before


# Who outlives whom


def test_a_detached_instance_outlives_its_creator(address: str, names: Any, new_actors: Any) -> None:
    """Until somebody shuts it down."""
    found = run_program(START, names("detached"), address, "detached").strip()
    client = serve.connect(found)
    assert client.get_handle("e").call() == "v1"
    client.shutdown()
    wait_until_equal(new_actors, set())
    assert not Path(found).exists()


def test_an_instance_ends_with_its_creator(address: str, names: Any, new_actors: Any) -> None:
    """When that exits."""
    found = run_program(START, names("attached"), address, "attached").strip()
    wait_until_equal(new_actors, set())
    assert not Path(found).exists()


def test_a_dead_instance_does_not_keep_the_next_from_its_end(address: str, names: Any, new_actors: Any) -> None:
    """When their creator exits; no file of either is left."""
    program = """
        import sys
        import ray
        import serve_bridge as serve
        from serve_bridge.runtimes.ray.actors import NAMESPACE, controller_name
        _, dead, alive, address = sys.argv
        started = [serve.start(name=n, address=address, http_options={"location": None}) for n in (dead, alive)]
        ray.kill(ray.get_actor(controller_name(dead), namespace=NAMESPACE), no_restart=True)
        print(*(client.address for client in started))
    """
    found = run_program(program, names("dead"), names("alive"), address).split()
    wait_until_equal(new_actors, set())
    assert [path for path in found if Path(path).exists()] == []


def test_an_instance_ends_when_its_creator_is_killed(address: str, names: Any, new_actors: Any) -> None:
    """Nobody could clean up after itself then."""
    with start_program(START, names("attached"), address, "attached", "stay") as process:
        assert process.stdout is not None
        found = process.stdout.readline().strip()
        client = serve.connect(found)
        assert client.get_handle("e").call() == "v1"
        client.close()
        process.send_signal(signal.SIGKILL)
    wait_until_equal(new_actors, set())
    assert not Path(found).exists()


def test_a_starter_that_was_killed_starts_again(address: str, names: Any, new_actors: Any) -> None:
    """Its instance is about to end, and is waited for."""
    name = names("again")
    with start_program(START, name, address, "attached", "stay") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    second = run_program(START, name, address, "attached")
    assert (first != second, second != "") == (True, True)
    wait_until_equal(new_actors, set())


def test_a_name_is_taken_for_other_processes_too(address: str, start: Any, names: Any) -> None:
    """Names are unique on a cluster."""
    name = names("taken")
    start(name=name)
    program = """
        import sys
        import serve_bridge as serve
        try:
            serve.start(name=sys.argv[1], address=sys.argv[2], http_options={"port": 0})
        except ValueError as error:
            print("connect()" in str(error))
    """
    assert run_program(program, name, address) == "True\n"


def test_start_keeps_the_signal_handlers(address: str, names: Any) -> None:
    """Ray takes over SIGTERM; a web server has its own."""
    program = """
        import signal, sys
        import serve_bridge as serve
        def mine(*_): ...
        signal.signal(signal.SIGTERM, mine)
        serve.start(name=sys.argv[1], address=sys.argv[2], http_options={"port": 0})
        print(signal.getsignal(signal.SIGTERM) is mine)
        serve.shutdown()
    """
    assert run_program(program, names("signals"), address) == "True\n"


def test_shutdown_leaves_no_actor_and_no_key(ray_cluster: Any, start: Any, new_actors: Any) -> None:
    """Of any kind."""
    before = keys()
    client = start()
    client.create_backend("b", backends.version_1)
    assert new_actors()
    client.shutdown()
    wait_until_equal(new_actors, set())
    assert keys() == before


def keys() -> set[bytes]:
    """Return the keys of all instances in Ray's key-value store."""
    return set(_internal_kv_list(b"", namespace=b"serve_bridge"))


# What is killed


def answer_of(handle: serve.Handle) -> Any:
    """Return the answer to a call that may run twice; None while there is no replica, or the one it reached dies."""
    try:
        return handle.options(http_method="GET").call()
    except (serve.BackendOverloaded, serve.ReplicaDied):
        return None


def test_a_killed_replica_is_replaced(client: serve.Client, serving: Serving) -> None:
    """The endpoint serves again, from another process."""
    served = serving(backends.process, config={"health_check_period_s": 0.2})
    first = served.handle.call()
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: answer_of(served.handle)) != first
    wait_until(lambda: list(client.status()["backends"][served.name]["replicas"].values()) == ["ready"])


def test_a_backend_that_calls_os_exit_is_replaced(serving: Serving) -> None:
    """The caller learns that its call may have run."""

    def backend(request: Any) -> str:
        if request.data == "exit":
            os._exit(1)
        return "alive"

    handle = serving(backend).handle
    with pytest.raises(serve.ReplicaDied) as caught:
        handle.call("exit")
    assert caught.value.executed == "unknown"
    assert wait_until(lambda: answer_of(handle)) == "alive"


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda: os._exit(3), "exit code 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    ],
    ids=["os._exit", "SIGKILL"],
)
def test_status_says_how_a_replica_has_ended(
    client: serve.Client, serving: Serving, end: Callable[[], None], told: str
) -> None:
    """With its exit code or its signal, after it was replaced too; forked children of its own mean nothing."""

    def backend(request: Any) -> str:
        if request.data == "end":
            end()
        child = os.fork()
        if child == 0:
            os._exit(9)
        os.waitpid(child, 0)
        return "alive"

    served = serving(backend)
    assert served.handle.call() == "alive"
    with pytest.raises(serve.ReplicaDied):
        served.handle.call("end")
    assert wait_until(lambda: answer_of(served.handle)) == "alive"
    wait_until(lambda: told in (client.status()["backends"][served.name]["last_end"] or ""))


def test_a_constructor_that_calls_os_exit_is_reported(client: serve.Client, serving: Serving) -> None:
    """Within its time, with its exit code, and the name is free again."""

    class Leaves:
        def __init__(self) -> None:
            os._exit(4)

        def __call__(self, request: Any) -> None: ...

    name = serving.name()
    with pytest.raises(serve.BackendStartError, match="process ended while it started: exit code 4"):
        client.create_backend(name, Leaves)
    client.create_backend(name, backends.version_1)


def test_a_killed_controller_comes_back_and_adopts(start: Any) -> None:
    """The replicas go on, and management works again."""
    client = start()
    client.create_backend("b", backends.process)
    client.create_endpoint("e", backend="b")
    handle = client.get_handle("e")
    replica = handle.call()
    controller_of(client).kill()
    assert {handle.call() for _ in range(50)} == {replica}
    wait_until(lambda: manages(client))
    client.create_backend("c", backends.version_1)
    assert client.list_endpoints()["e"]["traffic"] == {"b": 1.0}
    assert (handle.call(), sorted(client.list_backends())) == (replica, ["b", "c"])


class Gated:
    """New code whose second replica waits until a file appears."""

    def __init__(self, directory: Path) -> None:
        number = len(list(directory.glob("started-*")))
        (directory / f"started-{number}").touch()
        if number == 1:
            wait_until((directory / "open").exists, timeout_s=60)

    def __call__(self, request: Any) -> str:
        """Return its version."""
        return "v2"


def test_an_update_whose_controller_dies_is_undone(start: Any, tmp_path: Path) -> None:
    """One of three replicas was replaced. The caller's error and the status say so, and all calls are answered."""
    client = start()
    client.create_backend("b", backends.version_1, config={"num_replicas": 3, "max_surge": 0, "max_unavailable": 1})
    client.create_endpoint("e", backend="b")
    handle = client.get_handle("e")
    with ThreadPoolExecutor(1) as threads:
        update = threads.submit(client.update_backend, "b", Gated, tmp_path)
        wait_until((tmp_path / "started-1").exists)
        controller_of(client).kill()
        with pytest.raises(serve.NotConnected, match=r"the controller was lost .* 1 of 3 replicas had the new code"):
            update.result(60)
    assert {handle.call() for _ in range(20)} <= {"v1", "v2"}

    def shown() -> dict[str, Any]:
        return {**(client.status()["backends"]["b"]["update"] or {})}

    (tmp_path / "open").touch()
    wait_until(lambda: shown()["state"] == "undone")
    assert (shown()["new"], shown()["old"]) == (0, 3)
    assert "the next one undoes it: 1 of 3 replicas had the new code" in shown()["failure"]
    assert {handle.call() for _ in range(20)} == {"v1"}


def manages(client: serve.Client) -> bool:
    """Whether the controller takes changes."""
    try:
        client.set_traffic("e", {"b": 1.0})
    except serve.NotConnected:
        return False
    return True


def controller_of(client: serve.Client) -> psutil.Process:
    """Return the process that listens where *client*'s controller does."""
    directory = str(Path(client.address).parent)

    def is_controller(process: psutil.Process) -> bool:
        listens = any(str(connection.laddr).startswith(directory) for connection in process.net_connections("unix"))
        return listens and "ControllerActor" in process.name() + " ".join(process.cmdline())

    return children_where(is_controller)[0]


# What there is room for


def free_cpus(cluster: Any) -> float:
    """Return how many CPUs of the cluster nothing has."""
    return float(cluster.available_resources().get("CPU", 0))


def test_engine_actors_ask_for_no_cpus(ray_cluster: Any, start: Any) -> None:
    """All of the cluster is left for backends."""
    start()
    wait_until_equal(lambda: free_cpus(ray_cluster), CPUS)  # those of other tests come free late


def test_ray_actor_options_are_the_replicas(ray_cluster: Any, client: serve.Client, serving: Serving) -> None:
    """Resources are taken while it lives, and its environment is set."""
    name = serving.name()
    options = {"num_cpus": 3, "runtime_env": {"env_vars": {"COLOUR": "green"}}}
    wait_until_equal(lambda: free_cpus(ray_cluster), CPUS)
    client.create_backend(name, lambda request: os.environ["COLOUR"], ray_actor_options=options)
    wait_until_equal(lambda: free_cpus(ray_cluster), CPUS - 3)
    assert serving.endpoint(name).handle.call() == "green"
    client.delete_endpoint(name)
    client.delete_backend(name)
    wait_until_equal(lambda: free_cpus(ray_cluster), CPUS)


def test_more_than_the_cluster_has_is_an_error(client: serve.Client, serving: Serving, new_actors: Any) -> None:
    """After start_timeout_s; it says what was asked and how much of it is free."""
    name = serving.name()
    with pytest.raises(serve.BackendStartError, match=r"asks for 1000 CPU; free in the cluster: [0-9.]+ of 8 CPU$"):
        client.create_backend(
            name, backends.version_1, config={"start_timeout_s": 1}, ray_actor_options={"num_cpus": 1000}
        )
    assert name not in client.list_backends()
    wait_until_equal(new_actors, set())


def test_an_update_that_finds_no_room_says_that_it_needs_it_twice(client: serve.Client, serving: Serving) -> None:
    """It names what is free by now, and the old replica serves on."""
    name = serving.name()
    client.create_backend(name, backends.version_1, ray_actor_options={"num_cpus": 6})
    handle = serving.endpoint(name).handle
    with pytest.raises(serve.BackendStartError, match="for 6 CPU; free in the cluster: 2 of 8 CPU; an update"):
        client.update_backend(name, backends.version_2, config={"start_timeout_s": 1})
    assert handle.call() == "v1"
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_an_impossible_runtime_env_is_named(client: serve.Client, serving: Serving) -> None:
    """It is no failure of the backend's own code."""
    options = {"runtime_env": {"conda": "no-such-environment"}}
    with pytest.raises(serve.BackendStartError, match="runtime_env of its ray_actor_options"):
        client.create_backend(serving.name(), backends.version_1, ray_actor_options=options)


def test_ray_s_refusal_of_a_long_message_becomes_an_error_with_a_way_out() -> None:
    """As a call by `remote` meets it, whose arguments Ray sends in one message."""
    error = _too_large(RpcError("Sent message larger than max (629146582 vs. 536870912)"))
    assert isinstance(error, serve.SerializationError)
    assert re.search(r"600 MiB.*512 MiB.*handle\.call", str(error))
    other = RpcError("unavailable")
    assert _too_large(other) is other


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (["num_cpus"], TypeError, "dict"),
        ({"num_cpus": "2"}, TypeError, "num_cpus"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"name": "mine"}, ValueError, "'name'"),
        ({"lifetime": "detached"}, ValueError, "'lifetime'"),
        ({"max_restarts": 1}, ValueError, "'max_restarts'"),
        ({"max_task_retries": 1}, ValueError, "'max_task_retries'"),
        ({"placement_group": None}, ValueError, "'placement_group'"),
        ({"num_cpu": 1}, ValueError, "num_cpu"),
    ],
    ids=str,
)
def test_bad_actor_options_start_nothing(
    client: serve.Client, serving: Serving, new_actors: Any, options: Any, error: type[Exception], text: str
) -> None:
    """The error names the option."""
    name = serving.name()
    with pytest.raises(error, match=text):
        client.create_backend(name, backends.version_1, ray_actor_options=options)
    assert name not in client.list_backends()
    assert new_actors() == set()


# Without Ray


def test_without_ray_installed_the_error_says_how_to_install_it() -> None:
    """And everything that needs no Ray works."""
    program = """
        import sys
        sys.modules["ray"] = None
        import serve_bridge as serve
        try:
            serve.start()
        except ImportError as error:
            print(error)
        client = serve.start(runtime="local", http_options={"port": 0})
        client.create_backend("b", lambda request: "local works")
        client.create_endpoint("e", backend="b")
        print(client.get_handle("e").call())
        client.shutdown()
    """
    missing = "runtime='ray' cannot run: ray is not installed. pip install 'serve-bridge[ray]'"
    assert run_program(program) == f"{missing}\nlocal works\n"


def test_a_local_instance_beside_a_cluster_says_to_use_call(ray_cluster: Any, names: Any) -> None:
    """It has no actors, though this process uses Ray."""
    client = serve.start(runtime="local", name=names("local"), http_options={"host": None})
    try:
        client.create_backend("b", backends.version_1)
        client.create_endpoint("e", backend="b")
        handle = client.get_handle("e")
        with pytest.raises(serve.NotConnected, match=r"runtime='local'.*handle\.call\(\)"):
            handle.remote()
        assert handle.call() == "v1"
    finally:
        client.shutdown()


def test_start_starts_a_cluster_where_it_joins_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends it with the instance."""
    # Other tests may have one that Ray's own search would find.
    monkeypatch.setenv("RAY_ADDRESS", "local")
    program = """
        import ray
        import serve_bridge as serve
        client = serve.start(http_options={"port": 0})
        client.create_backend("b", lambda request: "own cluster")
        client.create_endpoint("e", backend="b")
        print(client.get_handle("e").call(), ray.is_initialized())
        serve.shutdown()
        print(ray.is_initialized())
    """
    assert run_program(program) == "own cluster True\nFalse\n"


def test_the_known_actor_options_are_those_of_ray(ray_cluster: Any) -> None:
    """An option of a newer Ray would otherwise be refused as unknown."""
    with pytest.raises(ValueError, match="no_such_option") as raised:
        ray_cluster.remote(Serving).options(no_such_option=1)
    listed = re.findall(r"'(\w+)'", str(raised.value).partition("Valid ones")[2])
    assert set(listed) == {*RAY_OPTIONS, *ENGINE_OPTIONS}
