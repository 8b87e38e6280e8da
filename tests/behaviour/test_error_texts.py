"""What errors say: each names the value and the way out, and is of a type that its catcher expects."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from flask import Flask
from starlette.applications import Starlette

import serve_bridge as serve

SHORT_S = 1.0
"""Seconds for a call that is late. In them it begins, on a busy machine too."""
NAP_S = 3.0


class Model:
    """A backend with a plain call and methods."""

    def __call__(self, request: Any) -> Any:
        """Return the data."""
        return request.data

    def nap(self, duration_s: float) -> None:
        """Be slow."""
        time.sleep(duration_s)

    def plus(self, n: int) -> int:
        """Need data."""
        return n + 1

    def lock(self) -> Any:
        """Return what cannot be pickled."""
        return threading.Lock()

    def locks(self) -> Any:
        """Return it deep inside."""
        return {"a": [1, threading.Lock()]}

    def stream_locks(self) -> Iterator[Any]:
        """Yield it."""
        yield 1
        yield threading.Lock()


class OnlyMethods:
    """A backend that cannot be called by itself."""

    def predict(self) -> int:
        """Be the only one."""
        return 1


class AnyKeywords:
    """A constructor that would swallow everything."""

    def __init__(self, **kwargs: Any) -> None: ...

    def __call__(self, request: Any) -> None:
        """Be a backend."""


class OwnThreads:
    """A constructor with a parameter that is called like an option."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __call__(self, request: Any) -> int:
        """Return what the constructor got."""
        return self._threads


def function(request: Any) -> None:
    """Be a backend."""


@pytest.fixture(scope="module")
def model(client: serve.Client) -> serve.Client:
    """The shared instance, with what the provocations need."""
    client.create_backend("mood", Model, config={"threads": 8})
    client.create_endpoint("mood", backend="mood", route="/plus", methods=["POST"])
    client.create_backend("bare", OnlyMethods)
    client.create_endpoint("bare", backend="bare")
    client.create_endpoint("short", backend="mood", timeout_s=SHORT_S)
    client.create_backend("narrow", Model, config={"max_concurrent_queries": 1, "max_queued_queries": 0})
    client.create_endpoint("narrow", backend="narrow")
    return client


LOCK = "a _thread.lock"
DEEP = {"a": {"b": [0, threading.Lock()]}}
Provocation = Callable[[serve.Client], Any]


def method(client: serve.Client, name: str, endpoint: str = "mood", **options: Any) -> serve.Handle:
    """Return a handle for a method."""
    return client.get_handle(endpoint).options(method_name=name, **options)


async def _drain(client: serve.Client, data: Any) -> None:
    async for _ in client.get_handle("mood").astream(data):
        pass


CASES: dict[str, tuple[Provocation, type[Exception], str]] = {
    # arguments and results that cannot be pickled
    "call": (
        lambda c: c.get_handle("mood").call(DEEP),
        serve.SerializationError,
        f"the data of the call cannot be pickled: data['a']['b'][1] is {LOCK}",
    ),
    "call, a keyword": (
        lambda c: c.get_handle("mood").call(1, extra=[threading.Lock()]),
        serve.SerializationError,
        f"the argument 'extra' of the call cannot be pickled: extra[0] is {LOCK}",
    ),
    "acall": (
        lambda c: asyncio.run(c.get_handle("mood").acall(threading.Lock())),
        serve.SerializationError,
        f"the data of the call cannot be pickled: data is {LOCK}",
    ),
    "stream": (
        lambda c: list(c.get_handle("mood").stream(DEEP)),
        serve.SerializationError,
        f"the data of the call cannot be pickled: data['a']['b'][1] is {LOCK}",
    ),
    "astream": (
        lambda c: asyncio.run(_drain(c, DEEP)),
        serve.SerializationError,
        f"the data of the call cannot be pickled: data['a']['b'][1] is {LOCK}",
    ),
    "result": (
        lambda c: method(c, "lock").call(),
        serve.SerializationError,
        "backend 'mood' returned a _thread.lock, which cannot be pickled",
    ),
    "part of a result": (
        lambda c: method(c, "locks").call(),
        serve.SerializationError,
        f"backend 'mood' returned a dict that cannot be pickled: result['a'][1] is {LOCK}",
    ),
    "item of a stream": (
        lambda c: list(method(c, "stream_locks").stream()),
        serve.SerializationError,
        "backend 'mood' returned a _thread.lock, which cannot be pickled",
    ),
    # time and room
    "deadline": (
        lambda c: method(c, "nap", timeout_s=SHORT_S).call(NAP_S),
        serve.DeadlineExceeded,
        "endpoint 'mood': no answer within 1 s (it may have run; handle.options(timeout_s=...) gives more time)",
    ),
    "deadline of acall": (
        lambda c: asyncio.run(method(c, "nap", timeout_s=SHORT_S).acall(NAP_S)),
        serve.DeadlineExceeded,
        "endpoint 'mood': no answer within 1 s (it may have run; handle.options(timeout_s=...) gives more time)",
    ),
    "deadline of stream": (
        lambda c: list(method(c, "nap", timeout_s=SHORT_S).stream(NAP_S)),
        serve.DeadlineExceeded,
        "endpoint 'mood': no answer within 1 s (it may have run; handle.options(timeout_s=...) gives more time)",
    ),
    "deadline of the endpoint": (
        lambda c: method(c, "nap", "short").call(NAP_S),
        serve.DeadlineExceeded,
        "endpoint 'short': no answer within 1 s (it may have run; the endpoint's own timeout_s is the limit)",
    ),
    # names
    "endpoint": (lambda c: c.get_handle("mod"), serve.EndpointNotFound, "no endpoint 'mod'; did you mean 'mood'?"),
    "endpoint, nothing near": (
        lambda c: c.get_handle("zzz"),
        serve.EndpointNotFound,
        "no endpoint 'zzz'. Known: bare, ",
    ),
    "backend of an endpoint": (
        lambda c: c.create_endpoint("x", backend="mod"),
        serve.BackendNotFound,
        "no backend 'mod'; did you mean 'mood'?",
    ),
    "backend of a split": (
        lambda c: c.set_traffic("mood", {"mod": 1.0}),
        serve.BackendNotFound,
        "no backend 'mod'; did you mean 'mood'?",
    ),
    "backend of a shadow": (
        lambda c: c.shadow_traffic("mood", "mod", 0.5),
        serve.BackendNotFound,
        "no backend 'mod'; did you mean 'mood'?",
    ),
    "backend's config": (
        lambda c: c.get_backend_config("mod"),
        serve.BackendNotFound,
        "no backend 'mod'; did you mean 'mood'?",
    ),
    "no __call__": (
        lambda c: c.get_handle("bare").call(),
        serve.MethodNotExposed,
        "backend 'bare' has no `__call__`; name a method: handle.options(method_name=...)",
    ),
    # options in the wrong place, and wrong options
    "option of a function": (
        lambda c: c.create_backend("p", function, num_replicas=2),
        serve.ConfigError,
        "num_replicas is an option: pass config={'num_replicas': 2}",
    ),
    "option that **kwargs would swallow": (
        lambda c: c.create_backend("p", AnyKeywords, num_replicas=3),
        serve.ConfigError,
        "num_replicas is an option: pass config={'num_replicas': 3}",
    ),
    "option of an update": (
        lambda c: c.update_backend("mood", AnyKeywords, threads=3),
        serve.ConfigError,
        "threads is an option: pass config={'threads': 3}",
    ),
    "option of Ray": (
        lambda c: c.create_backend("p", AnyKeywords, num_gpus=1),
        serve.ConfigError,
        "num_gpus is an option of Ray's actors: pass ray_actor_options={'num_gpus': ...}",
    ),
    "misspelt option of Ray": (
        lambda c: c.create_backend("p", function, ray_actor_options={"num_gpu": 1}),
        serve.ConfigError,
        "ray_actor_options has no option 'num_gpu'; did you mean 'num_gpus'?",
    ),
    "option of Ray, wrong type": (
        lambda c: c.create_backend("p", function, ray_actor_options={"runtime_env": "x"}),
        TypeError,
        "ray_actor_options['runtime_env'] must be of type dict, got 'x'",
    ),
    "config in a declaration": (
        lambda c: serve.backend("x", config={"num_replicas": 2}),  # type: ignore[call-overload]
        TypeError,
        "backend() takes no config, it takes the options themselves, such as num_replicas=2",
    ),
    "init_args": (
        lambda c: serve.backend("x", init_args="abc"),
        TypeError,
        "init_args must be a list or tuple, got 'abc'",
    ),
    "init_kwargs": (
        lambda c: serve.backend("x", init_kwargs=["abc"]),  # type: ignore[call-overload]
        TypeError,
        "init_kwargs must be a dict with str keys, got ['abc']",
    ),
    "lambda": (
        lambda c: serve.backend()(lambda request: None),
        serve.ConfigError,
        "a lambda has no name: serve.backend('name')(...)",
    ),
    # code
    "bare WSGI application": (
        lambda c: c.create_backend("p", Flask("x")),
        TypeError,
        "got an instance of flask.app.Flask; wrap it: serve.wsgi_app(app)",
    ),
    "bare ASGI application": (
        lambda c: c.create_backend("p", Starlette()),
        TypeError,
        "got an instance of starlette.applications.Starlette; wrap it: serve.asgi_app(app)",
    ),
    "application for a class": (
        lambda c: c.update_backend("mood", serve.wsgi_app("shop.wsgi:application")),
        serve.ConfigError,
        "backend 'mood' is a function or class; an application needs a backend of its own",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_names_the_value_and_the_way_out(model: serve.Client, case: str) -> None:
    """It has the type that callers catch, too."""
    provoke, kind, text = CASES[case]
    with pytest.raises(kind) as raised:
        provoke(model)
    assert text in str(raised.value)


def test_a_full_backend_tells_its_limits(model: serve.Client) -> None:
    """The error says what runs, what may wait, and that the caller may try again."""
    handle = method(model, "nap", "narrow")
    refused: list[BaseException] = []
    while not refused:  # on a busy machine one call may be over before the other one comes
        with ThreadPoolExecutor(2) as callers:
            ended = [callers.submit(handle.call, 1) for _ in range(2)]
        refused = [error for each in ended if (error := each.exception()) is not None]
    assert isinstance(refused[0], serve.BackendOverloaded)
    assert str(refused[0]) == (
        "backend 'narrow' is full: 1 replica x 1 running, 0 of 0 waiting in this process (max_queued_queries); "
        "nothing was started, so try again"
    )


def test_a_constructor_gets_a_keyword_of_its_own(client: serve.Client) -> None:
    """A parameter may be called like an option."""
    client.create_backend("own", OwnThreads, threads=3)
    client.create_endpoint("own", backend="own")
    assert client.get_handle("own").call() == 3


def test_a_method_without_the_data_that_it_needs_is_a_bad_request(model: serve.Client) -> None:
    """A request without a body has none, while JSON's null is data."""
    url = model.http_urls[0] + "/plus"
    answer = httpx.post(url, headers={"x-serve-call-method": "plus"}, timeout=30)
    assert (answer.status_code, answer.json()["detail"]) == (400, "method 'plus' needs data")
    assert httpx.post(url, json=4, headers={"x-serve-call-method": "plus"}, timeout=30).text == "5"


@pytest.mark.parametrize(
    ("name", "here"), [("run", "deploy"), ("deployment", "@serve.backend"), ("delete", "delete_endpoint")]
)
def test_a_name_of_ray_serve_2_is_explained(model: serve.Client, name: str, here: str) -> None:
    """Also after a deployment, which imports the engine's own module of that name."""
    serve.deploy(Declared, client=model)
    with pytest.raises(AttributeError, match=here):
        getattr(serve, name)


@serve.backend("declared")
class Declared:
    """A declared backend."""

    def __call__(self, request: Any) -> None:
        """Be a backend."""


def test_dir_lists_public_names_only() -> None:
    """The engine's modules are no part of the API."""
    assert [name for name in dir(serve) if not name.startswith("__")] == sorted(serve.__all__)
