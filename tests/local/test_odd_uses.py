"""Odd uses: what a caller, a backend or an earlier process does wrong costs that one thing, and never the rest."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.controller import lease
from serve_bridge.instance.instance_file import discovery_file
from tests.support.serving import Serving

OPTIONS: dict[str, Any] = {"runtime": "local", "http_options": {"location": None}}


class Odd:
    """Whatever it is asked for goes wrong."""

    def __call__(self, request: Any) -> Any:
        """Do what the query says."""
        kind = request.query_params.get("kind")
        if kind == "exit":
            sys.exit(3)
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "items":
            return (number for number in range(3))
        if kind == "endless":
            return (number for number in itertools.count())
        return "alive"

    def reconfigure(self, value: Any) -> None:
        """Leave, if told so."""
        if value == "exit":
            sys.exit(4)

    def any_keyword(self, data: Any = None, **others: Any) -> Any:
        """Return the keywords."""
        return others


@pytest.fixture(scope="module")
def local() -> Iterator[serve.Client]:
    """One local instance with a proxy."""
    client = serve.start(runtime="local", name="odd-uses", http_options={"port": 0})
    yield client
    client.shutdown()


@pytest.fixture
def odd(local: serve.Client) -> Iterator[serve.Handle]:
    """A handle of an `Odd` backend at `/odd`."""
    local.create_backend("odd", Odd, config={"user_config": "start", "graceful_shutdown_timeout_s": 1})
    local.create_endpoint("odd", backend="odd", route="/odd", methods=["GET", "POST"])
    yield local.get_handle("odd")
    local.delete_endpoint("odd")
    local.delete_backend("odd")


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
def test_what_ends_a_process_ends_only_the_call(odd: serve.Handle, kind: str) -> None:
    """It arrives as a BackendError, so neither the caller's loop nor its process ends."""
    with pytest.raises(serve.BackendError):
        odd.call(kind=kind)
    with pytest.raises(serve.BackendError):
        list(odd.stream(kind=kind))
    with pytest.raises(serve.BackendError):
        asyncio.run(odd.acall(kind=kind))
    assert odd.call() == "alive"


def test_a_reconfigure_that_exits_leaves_the_replica_alive(local: serve.Client, odd: serve.Handle) -> None:
    """The old value stays, and the caller gets the error."""
    with pytest.raises(serve.BackendError, match="SystemExit"):
        local.update_backend_config("odd", {"user_config": "exit"})
    assert local.get_backend_config("odd").user_config == "start"
    assert odd.call() == "alive"


def test_a_call_of_a_generator_returns_a_list(odd: serve.Handle) -> None:
    """As `remote` does; `stream` iterates it instead."""
    assert odd.call(kind="items") == [0, 1, 2]
    assert asyncio.run(odd.acall(kind="items")) == [0, 1, 2]


def test_a_half_read_stream_can_be_dropped_on_the_clients_own_thread(local: serve.Client, odd: serve.Handle) -> None:
    """A garbage collector runs on any thread: it must not wait for the loop that it may be holding up."""
    items = odd.stream(kind="endless")
    assert next(items) == 0
    held = [items]
    del items
    loop = link_of(local)._here().channel().loop
    dropped = asyncio.run_coroutine_threadsafe(_clear(held), loop)
    dropped.result(20)
    assert odd.call() == "alive"


async def _clear(held: list[Any]) -> None:
    held.clear()


@pytest.mark.parametrize("method", ["@drain", "@check", "@configure", "@completions"])
def test_the_engines_own_operations_are_no_methods(odd: serve.Handle, method: str) -> None:
    """What the controller asks of a replica, a caller cannot."""
    with pytest.raises(serve.MethodNotExposed):
        odd.options(method_name=method).call([30.0])
    assert odd.call() == "alive"


def test_a_keyword_called_self_is_the_callers_error(local: serve.Client, odd: serve.Handle) -> None:
    """It would clash with the instance, even where a method takes any keyword."""
    with pytest.raises(TypeError, match="takes no keyword 'self'"):
        odd.options(method_name="any_keyword").call(self=1)
    assert odd.options(method_name="any_keyword").call(other=1) == {"other": 1}
    answer = httpx.get(
        f"{local.http_urls[0]}/odd?self=1", headers={"X-SERVE-CALL-METHOD": "any_keyword"}, trust_env=False, timeout=30
    )
    assert answer.status_code == 400


def test_a_malformed_form_is_the_clients_error(local: serve.Client) -> None:
    """The request's `form()` raises what Starlette raises in an application: 400."""

    async def read(request: Any) -> int:
        return len(await request.form())

    serving = Serving(local, itertools.count())
    served = serving(read)
    answer = httpx.post(
        local.http_urls[0] + served.route,
        content=b"no form at all",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        trust_env=False,
        timeout=30,
    )
    serving.end()
    assert answer.status_code == 400


@pytest.mark.parametrize("name", [None, 5, b"odd", ["odd"]])
def test_a_name_that_is_no_str_is_a_type_error(local: serve.Client, odd: serve.Handle, name: Any) -> None:
    """Everywhere, and it names what it got; nothing is looked up."""
    for operation in (
        lambda: local.get_handle(name),
        lambda: local.get_handle(name, missing_ok=True),
        lambda: local.delete_backend(name),
        lambda: local.delete_endpoint(name),
        lambda: local.get_backend_config(name),
        lambda: local.update_backend_config(name, {"threads": 2}),
        lambda: local.set_traffic(name, {"odd": 1.0}),
        lambda: local.shadow_traffic(name, "odd", 0.5),
        lambda: local.shadow_traffic("odd", name, 0.5),
    ):
        with pytest.raises(TypeError, match="name must be a str"):
            operation()


def test_a_second_client_ends_an_instance_wholly(local: serve.Client) -> None:
    """The name is free at once, and the client that started it is closed too."""
    for _ in range(2):
        first = serve.start(**OPTIONS, name="odd-second")
        serve.connect(name="odd-second")
        serve.shutdown()
        with pytest.raises(serve.InstanceClosed):
            first.list_backends()


def test_an_instance_lives_while_its_starter_does_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is taken by `start`, not by the first use of the client that it returns."""
    monkeypatch.setattr(lease, "GRACE_S", 0.5)
    client = serve.start(**OPTIONS, name="odd-idle")
    second = serve.connect(name="odd-idle")
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert second.list_backends() == {}
    second.close()
    client.shutdown()


def test_two_threads_cannot_start_one_name() -> None:
    """One of them gets the instance."""
    outcomes: list[serve.Client | Exception] = []
    together = threading.Barrier(4)

    def start() -> None:
        together.wait()
        try:
            outcomes.append(serve.start(**OPTIONS, name="odd-race"))
        except serve.ConfigError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clients = [outcome for outcome in outcomes if isinstance(outcome, serve.Client)]
    for client in clients:
        client.shutdown()
    assert (len(clients), len(outcomes)) == (1, 4)


def test_what_a_crash_left_does_not_keep_an_instance_from_starting() -> None:
    """A discovery file that says nothing is replaced."""
    path = discovery_file("odd-left")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text("{")
    client = serve.start(**OPTIONS, name="odd-left")
    assert serve.connect(name="odd-left").address == client.address
    client.shutdown()
    assert not path.exists()


def _in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    # On a busy machine asyncio's debug mode warns of each step of a loop that took long.
    quiet = "import logging; logging.getLogger('asyncio').setLevel(logging.ERROR)\n"
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", quiet + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_handles_that_arrive_share_one_client(odd: serve.Handle) -> None:
    """However many are unpickled and dropped, the process has one thread for them, and exits in silence."""
    ended = _in_a_process(
        "import pickle, threading\n"
        f"for _ in range(5): assert pickle.loads({pickle.dumps(odd)!r}).call() == 'alive'\n"
        "print(threading.active_count())\n"
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("2\n", "", 0)


def test_a_module_may_create_backends_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: serve.Client
) -> None:
    """As a web server imports the module of its application; the replica does not wait for the end of that."""
    (tmp_path / "odd_importing.py").write_text(
        "import serve_bridge as serve\n"
        "def answer(request): return 'answered'\n"
        f"client = serve.connect({local.address!r})\n"
        "client.create_backend('odd-importing', answer, config={'start_timeout_s': 20})\n"
        "client.create_endpoint('odd-importing', backend='odd-importing')\n"
        "answered = client.get_handle('odd-importing').call()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("odd_importing").answered == "answered"
    local.delete_endpoint("odd-importing")
    local.delete_backend("odd-importing")


def test_a_half_read_stream_at_exit_is_silent() -> None:
    """The interpreter drops it after the instance has ended."""
    ended = _in_a_process(
        "import itertools, serve_bridge as serve\n"
        "def endless(request): yield from itertools.count()\n"
        "serve.start(runtime='local', name='odd-exit', http_options={'location': None})\n"
        "serve.create_backend('b', endless, config={'graceful_shutdown_timeout_s': 0.1})\n"
        "serve.create_endpoint('e', backend='b')\n"
        "items = serve.get_handle('e').stream()\n"
        "print(next(items))\n"
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("0\n", "", 0)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"http_method": "ge t"}, ValueError, "http_method"),
        ({"http_headers": {"a\nb": "c"}}, ValueError, "name in http_headers"),
        ({"http_headers": {"a": "b\r\nc: d"}}, ValueError, r"http_headers\['a'\]"),
        ({"method_name": "\ud800"}, ValueError, "method_name"),
        ({"shard_key": 7}, TypeError, "shard_key"),
    ],
)
def test_a_handle_refuses_options_that_no_request_can_carry(
    options: dict[str, Any], error: type[Exception], named: str
) -> None:
    """At once, not when it is called."""
    with pytest.raises(error, match=named):
        serve.AsyncHandle(Nobody(), "x").options(**options)


class Nobody:
    """Stands for a client that is never asked."""
