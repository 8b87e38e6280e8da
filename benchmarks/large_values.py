"""How long an array takes to another process: serve_bridge, a bare socket, shared memory, Ray's object store.

    .venv/bin/python -m benchmarks.large_values

Each way is timed from before the sender has begun until the receiver, which has read every page of the array, has said
so; the ways take turns in each round. A bare socket is what serve_bridge builds on. Shared memory is a new `memfd` for
each array, filled, passed over a socket and mapped: it has no name, and nothing stays behind. Ray's object store is
`actor.method.remote(array)`.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np

import serve_bridge as serve
from benchmarks import machine
from serve_bridge.wire.payload import space_for

SIZES: Final = (10_000, 100_000, 1 << 20, 10 << 20, 100 << 20)
ROUNDS: Final = 5
REST_S: Final = 0.05
"""Rest before each: what the one before frees takes time too, that of others."""
Array = np.ndarray[Any, np.dtype[np.uint8]]
Send = Callable[[Array], object]

_ORDER: Final = 16


def touch(data: Any) -> int:
    """Read every page of *data*, as who uses it will."""
    return int(np.frombuffer(data, np.uint8)[::4096].sum())


def receive(sock: socket.socket) -> None:
    """Answer a byte for each array that comes, in one way or the other."""
    while order := sock.recv(_ORDER):
        size = int(order[1:])
        if order[:1] == b"s":
            space = rest = space_for(size)
            while rest:
                rest = rest[sock.recv_into(rest) :]
            touch(space)
        else:
            (descriptor,) = socket.recv_fds(sock, 1, 1)[1]
            touch(mmap.mmap(descriptor, size))
            os.close(descriptor)
        sock.sendall(b"k")


@contextmanager
def peer() -> Iterator[socket.socket]:
    """A process that takes arrays over a socket."""
    own, its = socket.socketpair()
    for sock in (own, its):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 * 1024)
    process = multiprocessing.get_context("spawn").Process(target=receive, args=(its,))
    process.start()
    its.close()
    with own:
        yield own
    process.join(10)


def over_socket(sock: socket.socket) -> Send:
    """Return what sends an array through *sock*."""

    def send(array: Array) -> None:
        sock.sendall(b"s%015d" % array.nbytes)
        sock.sendall(array.data)
        sock.recv(1)

    return send


def over_memory(sock: socket.socket) -> Send:
    """Return what copies an array to new shared memory and passes that through *sock*."""

    def send(array: Array) -> None:
        descriptor = os.memfd_create("array")
        rest = array.data
        while rest:  # writing is faster than to map and fill
            rest = rest[os.write(descriptor, rest) :]
        sock.sendall(b"m%015d" % array.nbytes)
        socket.send_fds(sock, [b"f"], [descriptor])
        os.close(descriptor)
        sock.recv(1)

    return send


@contextmanager
def over_bridge() -> Iterator[Send]:
    """A backend that takes arrays, on the Ray that runs."""
    client = serve.start(runtime="ray", name="large-values")
    try:
        client.create_backend("take", lambda request: touch(request.data))
        client.create_endpoint("take", backend="take")
        yield client.get_handle("take").call
    finally:
        client.shutdown()


def over_store() -> Send:
    """Return what passes an array to an actor through Ray's object store."""
    import ray

    class Taker:
        def take(self, array: Array) -> int:
            return int(array[::4096].sum())

    remote_class: Any = ray.remote(Taker)
    actor = remote_class.remote()
    return lambda array: ray.get(actor.take.remote(array))


def measure(ways: Mapping[str, Send]) -> dict[int, dict[str, float]]:
    """Return the median milliseconds of each way, by size."""
    found: dict[int, dict[str, float]] = {}
    for size in SIZES:
        array = np.ones(size, np.uint8)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS if size > 1 << 20 else 10 * ROUNDS):
            for name, send in ways.items():
                time.sleep(REST_S)
                began = time.perf_counter()
                send(array)
                times[name].append(1e3 * (time.perf_counter() - began))
        found[size] = {name: round(statistics.median(taken[1:]), 3) for name, taken in times.items()}
    return found


def main() -> None:
    """Measure, and print a table; with an argument, write the figures to that file too."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    with ExitStack() as stack:
        sock = stack.enter_context(peer())
        ways = {
            "serve_bridge, `handle.call`": stack.enter_context(over_bridge()),
            "bare socket": over_socket(sock),
            "shared memory": over_memory(sock),
            "Ray's object store": over_store(),
        }
        found = measure(ways)
    ray.shutdown()
    print("| bytes | " + " | ".join(f"{name}, ms" for name in ways) + " |")
    print("|---|" + "---|" * len(ways))
    for size, row in found.items():
        print(f"| {size:,} | " + " | ".join(f"{row[name]:.3g}" for name in ways) + " |")
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            json.dump({"machine": machine.describe(), "milliseconds": found}, file, indent=1)


if __name__ == "__main__":
    main()
