"""An app's link to an instance: bodies that stream from a web worker's thread, and links that come back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge.adapters import Bridge, ForwardedRoute, Outcome
from serve_bridge.adapters.bridge import reconnecting_client as reconnecting_client
from serve_bridge.adapters.bridge.bridge import raw_params
from serve_bridge.client.client import link_of
from serve_bridge.errors import BackendError, DeadlineExceeded, EndpointNotFound, NotConnected
from serve_bridge.forwarding.refusals import BodyTooLarge, UploadBroken
from serve_bridge.http.readable import PIECE_BYTES
from serve_bridge.routing.channel import Channel
from serve_bridge.testing.contract import SUBJECT, deploy_subject
from tests.support.programs import start_program
from tests.support.waiting import wait_until

ROUTE = ForwardedRoute(SUBJECT)
LONG = bytes(range(256)) * 1024 * 50  # 12.5 MiB, more than any window


@serve.backend("declared")
def declared(request: Any) -> str:
    """Answer."""
    return "declared"


@pytest.fixture(scope="module")
def instance() -> Iterator[serve.Client]:
    """A local instance with the backend of the adapters' contract."""
    client = serve.start(runtime="local", name="bridge", http_options={"location": "NoServer"})
    deploy_subject(client)
    yield client
    client.shutdown()


@pytest.fixture(scope="module")
def bridge(instance: serve.Client) -> Iterator[Bridge]:
    """A link to it."""
    bridge = Bridge(instance.address)
    yield bridge
    bridge.close()


class Body:
    """A request's body that keeps count of who reads how much of it."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.length = len(data)
        self.sizes: list[int] = []

    def read(self, size: int, /) -> bytes:
        """Return the next piece; to read on at its end is what some servers answer with a wait for ever."""
        assert self._file.tell() < self.length, "read beyond its end"
        self.sizes.append(size)
        return self._file.read(size)


class Failing:
    """A body that cannot be read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, size: int, /) -> bytes:
        """Fail."""
        raise self._error


class FrameworksOwn(Exception):
    """What a framework raises when a body is too long for it."""


def ask(
    bridge: Bridge,
    path: str,
    body: Any = b"",
    *,
    length: int | None = 0,
    route: ForwardedRoute = ROUTE,
    ends: Mapping[str, Any] | None = None,
) -> Outcome:
    """Forward a POST; *length* None is a chunked body, and *ends* None is a server that says nothing of them."""
    path, _, query = path.partition("?")
    framing = (b"transfer-encoding", b"chunked") if length is None else (b"content-length", b"%d" % length)
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "http_version": "1.1",
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"host", b"h"), framing],
        **(ends or {}),
    }
    return bridge.ask(route, scope, {}, body, None)


def told(outcome: Outcome) -> Any:
    """Return what a whole answer says."""
    assert outcome.error is None, outcome
    return json.loads(outcome.body)


def ended(instance: serve.Client, gate: str) -> bool:
    """Wait until the request of *gate* has ended."""
    found: bool = instance.get_handle(SUBJECT).options(method_name="ended").call(gate)
    return found


def test_ports_may_come_as_text(bridge: Bridge) -> None:
    """As one server has them."""
    ends = {"client": ("1.2.3.4", "5"), "server": ("h", "80")}
    assert told(ask(bridge, "/echo", ends=ends))["client"] == "1.2.3.4"


class Shelf(str, Enum):  # noqa: UP042 - applications have such classes too
    """As an application's converter returns it."""

    TOP = "top"


class Rank(int, Enum):
    """As another one returns it."""

    FIRST = 1


def test_a_kind_of_plain_path_parameter_goes_along_as_its_value() -> None:
    """The text of an Enum's member is not its value."""
    params = {"shelf": Shelf.TOP, "rank": Rank.FIRST, "kept": True, "share": 0.5}
    sent = (("shelf", "str", "top"), ("rank", "int", "1"), ("kept", "str", "True"), ("share", "float", "0.5"))
    assert raw_params(params) == sent


# bodies


def test_a_short_body_is_read_as_far_as_it_goes(bridge: Bridge) -> None:
    """And not further."""
    assert told(ask(bridge, "/echo", Body(b"hello"), length=5))["body"] == "hello"


def test_a_long_body_is_read_piece_by_piece(bridge: Bridge) -> None:
    """Nobody holds all of it."""
    body = Body(LONG)
    seen = told(ask(bridge, "/digest", body, length=len(LONG)))
    assert seen == {"size": len(LONG), "digest": hashlib.sha256(LONG).hexdigest()}
    assert max(body.sizes) <= PIECE_BYTES


def test_a_body_of_unknown_length_ends_where_the_server_says(bridge: Bridge) -> None:
    """By an empty piece."""
    assert told(ask(bridge, "/digest", io.BytesIO(LONG), length=None))["size"] == len(LONG)


def test_a_body_that_nobody_wants_is_not_read(bridge: Bridge) -> None:
    """The answer comes before it."""
    body = Body(LONG)
    assert ask(bridge, "/early", body, length=len(LONG)).status == 202
    assert body.sizes == []


def test_an_answer_passes_while_its_request_is_still_read(bridge: Bridge) -> None:
    """As much of the body is read as the answer has been taken."""
    body = Body(LONG)
    outcome = ask(bridge, "/duplex", body, length=len(LONG))
    first = next(outcome.body)
    assert len(body.sizes) * PIECE_BYTES < len(LONG)
    assert first + b"".join(outcome.body) == LONG


@pytest.mark.parametrize("length", [20, 500_000])
def test_a_body_that_ends_early_is_a_broken_upload(bridge: Bridge, length: int) -> None:
    """The client has left; nobody takes what came for the whole."""
    outcome = ask(bridge, "/digest", io.BytesIO(b"x" * (length // 2)), length=length)
    assert (outcome.status, type(outcome.error)) == (400, UploadBroken)


@pytest.mark.parametrize("length", [20, 500_000])
def test_a_body_that_cannot_be_read_is_a_broken_upload(bridge: Bridge, length: int) -> None:
    """As when the connection was reset."""
    outcome = ask(bridge, "/digest", Failing(ConnectionResetError("reset")), length=length)
    assert (outcome.status, type(outcome.error)) == (400, UploadBroken)


@pytest.mark.parametrize("length", [20, 500_000])
def test_what_a_framework_raises_goes_back_to_it(bridge: Bridge, length: int) -> None:
    """It has an answer of its own for that."""
    with pytest.raises(FrameworksOwn):
        ask(bridge, "/digest", Failing(FrameworksOwn()), length=length)


@pytest.mark.parametrize("length", [None, 500_000])
def test_a_body_above_the_routes_limit_is_refused(bridge: Bridge, length: int | None) -> None:
    """By its length, or once that much of it has come."""
    route = ForwardedRoute(SUBJECT, {"max_body_bytes": 100_000})
    outcome = ask(bridge, "/digest", io.BytesIO(b"x" * 500_000), length=length, route=route)
    assert (outcome.status, type(outcome.error)) == (413, BodyTooLarge)


# answers


def test_an_answer_that_is_closed_is_given_up(instance: serve.Client, bridge: Bridge) -> None:
    """The backend does not work for nobody."""
    gate = secrets.token_hex(4)
    outcome = ask(bridge, f"/endless?gate={gate}")
    assert next(outcome.body)
    outcome.body.close()
    assert ended(instance, gate)


def test_what_user_code_raised_comes_with_its_traceback(bridge: Bridge) -> None:
    """For the app's own log; the body says nothing."""
    outcome = ask(bridge, "/failing?kind=error")
    assert isinstance(outcome.error, BackendError)
    assert (outcome.status, outcome.error.type_name, "secret" in str(outcome.error)) == (500, "RuntimeError", True)
    assert b"secret" not in outcome.body


def test_a_request_that_takes_too_long_is_given_up(instance: serve.Client, bridge: Bridge) -> None:
    """After the route's own time."""
    gate = secrets.token_hex(4)
    outcome = ask(
        bridge, f"/hanging?gate={gate}", route=ForwardedRoute(SUBJECT, {"timeout_s": 1})
    )  # in which it has begun
    assert (outcome.status, type(outcome.error)) == (504, DeadlineExceeded)
    assert ended(instance, gate)


def test_an_unknown_endpoint_is_unavailable(bridge: Bridge) -> None:
    """Whoever wrote the route."""
    outcome = ask(bridge, "/echo", route=ForwardedRoute("nobody"))
    assert (outcome.status, type(outcome.error)) == (503, EndpointNotFound)
    assert outcome.request_id


# the link


def test_a_link_finds_an_instance_that_starts_later(names: Callable[[str], str]) -> None:
    """Until then each request is answered 503."""
    name = names("later")
    bridge = Bridge(name=name)
    outcome = ask(bridge, "/echo")
    assert (outcome.status, type(outcome.error)) == (503, NotConnected)
    client = serve.start(runtime="local", name=name, http_options={"location": "NoServer"})
    deploy_subject(client)
    assert ask(bridge, "/echo").status == 200
    bridge.close()
    client.shutdown()


def test_a_link_comes_back_after_its_instance_was_started_anew(names: Callable[[str], str]) -> None:
    """By itself; nobody restarts the web worker."""
    name = names("anew")
    bridge = Bridge(name=name)
    for _ in range(2):
        client = serve.start(runtime="local", name=name, http_options={"location": "NoServer"})
        deploy_subject(client)
        wait_until(lambda: ask(bridge, "/echo").status == 200)
        client.shutdown()
    bridge.close()


ELSEWHERE = """
    import sys
    from pathlib import Path
    import serve_bridge as serve
    from tests.support.waiting import wait_until
    name, ended = sys.argv[1:]
    instance = serve.start(runtime="local", name=name, http_options={"location": "NoServer"})
    print("started", flush=True)
    wait_until(Path(ended).exists, 60)
    instance.shutdown()
"""


def test_nobody_waits_while_the_link_to_an_instance_that_was_shut_down_is_closed(
    names: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The request that finds it gone closes it; for others it is gone at once. Another process had the instance."""
    monkeypatch.setattr(reconnecting_client, "LOOK_AGAIN_S", 0.0)
    name = names("closing")
    with start_program(ELSEWHERE, name, str(tmp_path / "ended")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        bridge = Bridge(name=name)
        old = link_of(bridge.client())
        old.routing_table()
        (tmp_path / "ended").touch()
    wait_until(lambda: old.lost)
    holding, go = threading.Event(), threading.Event()

    async def hold(channel: Channel) -> None:
        holding.set()
        go.wait()

    old.begin(hold)
    assert holding.wait(20)
    with ThreadPoolExecutor(2) as threads:
        closing = [threads.submit(bridge.client) for _ in range(2)]
        answered, waiting = wait(closing, timeout=60, return_when=FIRST_COMPLETED)
        go.set()
    assert [type(each.exception()) for each in answered] == [NotConnected]
    assert [type(each.exception()) for each in waiting] == [NotConnected]


def test_a_link_may_start_an_instance_of_its_own() -> None:
    """With what is declared; it ends when the link is closed, and the next use starts another."""
    bridge = Bridge(runtime="local", declared=lambda: [declared])
    route = ForwardedRoute("declared")
    generations = set()
    for _ in range(2):
        assert ask(bridge, "/", route=route).body == b"declared"
        client = bridge.client()
        generations.add(client.generation)
        bridge.close()
        assert not link_of(client).is_owner
    assert len(generations) == 2


def test_there_is_one_client_for_each_link(bridge: Bridge) -> None:
    """An app may compare clients, or keep something by client."""
    client = bridge.client()
    assert bridge.client() is client
    bridge.close()
    assert bridge.client() is not client


def test_a_link_comes_back_after_the_app_has_closed_its_client(bridge: Bridge) -> None:
    """The client and the forwarded routes share one link."""
    bridge.client().close()
    assert ask(bridge, "/echo").status == 200
    assert not bridge.client().lost


def test_an_instance_of_the_app_itself_goes_on_after_its_client_was_closed() -> None:
    """After a shutdown by the client, the next use starts another one."""
    bridge = Bridge(runtime="local", declared=lambda: [declared])
    route = ForwardedRoute("declared")
    first = bridge.client()
    first.close()
    assert ask(bridge, "/", route=route).body == b"declared"
    second = bridge.client()
    second.shutdown()
    assert ask(bridge, "/", route=route).body == b"declared"
    third = bridge.client()
    bridge.close()
    assert first.generation == second.generation != third.generation
    assert not Path(second.address).exists()
    assert not Path(third.address).exists()


def test_a_forked_child_connects_anew(bridge: Bridge) -> None:
    """Neither disturbs the other."""
    assert ask(bridge, "/echo").status == 200
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seen = [ask(bridge, "/digest", io.BytesIO(data), length=len(data)).status for data in (b"short", LONG)]
            os.write(writing, json.dumps(seen).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        seen = answer.read()
    os.waitpid(child, 0)
    assert json.loads(seen) == [200, 200]
    assert ask(bridge, "/echo").status == 200


def test_nothing_is_read_before_the_first_request(tmp_path: Path) -> None:
    """An app is made where there may be no instance yet."""
    bridge = Bridge(str(tmp_path / "none.json"))
    bridge.close()
    with pytest.raises(NotConnected):
        bridge.client()
