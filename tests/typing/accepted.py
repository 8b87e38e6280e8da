"""Types that type checkers must infer from the public API. `make typing` runs mypy, pyright and pyrefly over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import serve_bridge as serve
from serve_bridge import AsyncHandle, Handle
from tests.typing.backends import (
    Batched,
    Methods,
    Mood,
    Plain,
    Sizes,
    either,
    greet,
    lengths,
    lengths_async,
    page,
    page_async,
    ping,
    score,
    score_async,
    shout,
    sizes,
    words,
    words_async,
)

# A declaration keeps the type of what it decorates.
assert_type(Mood("model").count(5), int)
assert_type(ping(), str)

# Functions.
assert_type(serve.handle(score), Handle[[str], float])
assert_type(serve.handle(score_async), Handle[[str], float])
assert_type(serve.handle(greet), Handle[[Any], str])
assert_type(serve.handle(shout), Handle[[Any], str])
assert_type(serve.handle(page), Handle[[Any], str])
assert_type(serve.handle(page_async), Handle[[Any], str])
assert_type(serve.handle(either), Handle[[int], str])
assert_type(serve.handle(words), Handle[[str], Iterator[str]])
assert_type(serve.handle(words_async), Handle[[str], AsyncIterator[str]])
assert_type(serve.handle(lengths), Handle[[str], int])
assert_type(serve.handle(lengths_async), Handle[[str], int])
assert_type(serve.handle(ping), Handle[[], str])

# Classes.
assert_type(serve.handle(Mood), Handle[[str], float])
assert_type(serve.handle(Plain), Handle[[str], float])
assert_type(serve.handle(Batched), Handle[[str], float])
assert_type(serve.handle(Methods), Handle)

# Calls.
assert_type(serve.handle(score).call("x"), float)
assert_type(serve.handle(ping).call(), str)
assert_type(serve.handle(words).stream("x"), Iterator[str])
assert_type(serve.handle(words_async).stream("x"), Iterator[str])
assert_type(serve.handle(words).astream("x"), AsyncIterator[str])
assert_type(serve.handle(words_async).astream("x"), AsyncIterator[str])
assert_type(serve.handle(Mood).options(timeout_s=2.0, shard_key="a"), Handle[[str], float])

# Methods.
assert_type(serve.handle(Mood).method(Mood.count).call(1), int)
assert_type(serve.handle(Mood).method(Mood.count).call(1, 2), int)
assert_type(serve.handle(Mood).method(Mood.count).call(by=1, times=2), int)
assert_type(serve.handle(Mood).method(Mood.count_async).call(1, times=2), int)
assert_type(serve.handle(Mood).method(Mood.explain), Handle[[str], str])
assert_type(serve.handle(Mood).method(Mood.show), Handle[[Any], str])
assert_type(serve.handle(Mood).method(Mood.lengths), Handle[[str], int])
assert_type(serve.handle(Mood).method(Mood.each).stream("x"), Iterator[int])
assert_type(serve.handle(Mood).method(Mood.each_async).stream("x"), Iterator[int])
assert_type(serve.handle(Methods).method(Methods.count).call(1), int)

# Handles by name.
assert_type(serve.get_handle("mood"), Handle)
assert_type(serve.get_handle("mood").call("x", lang="en"), Any)
assert_type(serve.get_handle("mood").stream("x"), Iterator[Any])
assert_type(serve.get_handle("mood", sync=False), AsyncHandle)
assert_type(serve.get_handle("mood", sync=False).options(timeout_s=2.0), AsyncHandle)

# What an instance runs.
assert_type(serve.status()["backends"]["mood"]["wanted"], int)
assert_type(serve.list_endpoints()["mood"]["traffic"], dict[str, float])
assert_type(serve.list_endpoints()["mood"]["timeout_s"], float | None)
serve.start(runtime="local", name="n", http_options={"port": 0, "location": None})
serve.start(http_options=serve.HTTPOptions(port=0))
serve.create_backend("mood", Mood, "model", config={"num_replicas": 2, "user_config": {"a": 1}})
serve.create_backend("mood", "shop.backends:Mood", config=serve.BackendConfig(num_replicas=2))
serve.update_backend_config("mood", {"num_replicas": 3})
serve.create_endpoint("mood", backend="mood", methods=("GET", "POST"))
serve.deploy("shop.backends", project="shop", dry_run=True)
serve.endpoint("mood", traffic={"mood": 1}, methods=["POST"])

# Clients have the same methods.
client = serve.connect()
assert_type(client.handle(Mood), Handle[[str], float])
assert_type(client.get_handle("mood"), Handle)
assert_type(client.get_handle("mood", sync=False), AsyncHandle)


async def asynchronous() -> None:
    """Await calls."""
    assert_type(await serve.handle(score).acall("x"), float)
    assert_type(await serve.handle(score).remote("x"), float)
    assert_type(await sizes("x"), int)
    assert_type(await Sizes().of("x"), int)
    async for word in serve.handle(words).astream("x"):
        assert_type(word, str)
