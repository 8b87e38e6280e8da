"""Mistakes that type checkers must find: each line with a comment `refused` has one, and no other line has any.

`make typing` runs mypy, pyright and pyrefly over this file.
"""

from __future__ import annotations

import serve_bridge as serve
from tests.typing.backends import Mood, ping, score

# Calls of typed handles.
serve.handle(score).call(1)  # refused
serve.handle(score).call()  # refused
serve.handle(score).call("x", "y")  # refused
serve.handle(score).stream("x")  # refused
serve.handle(ping).call("x")  # refused
serve.handle(Mood).method(Mood.count).call("x")  # refused
serve.handle(Mood).method(Mood.count).call(1, 2, 3)  # refused
serve.handle(Mood).method(Mood.count).call(1, time=2)  # refused
serve.handle(Mood).method(Mood.count_async).call(1, 2)  # refused
serve.handle(Mood).options(timeout=2.0)  # refused

# Options.
serve.start(runtime="loca")  # refused
serve.start(http_options={"prot": 1})  # refused
serve.start(nam="a")  # refused
serve.create_backend("b", Mood, config={"num_replica": 1})  # refused
serve.create_backend("b", Mood, config={"num_replicas": "2"})  # refused
serve.create_endpoint("e")  # refused
serve.create_endpoint("e", backend="b", methods="GET")  # refused
serve.update_backend_config("b", {"num_replica": 1})  # refused
serve.deploy("shop", prun=True)  # refused
serve.backend("b", num_replica=2)  # refused
serve.backend("b", num_replicas="2")  # refused
serve.backend("b", methods="GET")  # refused
serve.endpoint("e", trafic={"b": 1})  # refused
serve.BackendConfig(num_replica=2)  # refused
serve.status()["backend"]  # refused


def square(number: int) -> int:
    """Take an int, which no backend gets: it gets a request."""
    return number * number


serve.handle(square)  # refused
