"""ASGI and WSGI applications as backends: mounted below a route, over the proxy."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from starlette.staticfiles import StaticFiles
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import serve_bridge as serve
from serve_bridge.testing.raw_exchange import RawExchange
from tests.behaviour.support import applications, framework_applications
from tests.behaviour.support.applications import (
    FLOOD,
    MISTAKES,
    Flooding,
    Living,
    Silent,
    Waiting,
    WsgiFlooding,
    WsgiLengths,
    WsgiReading,
)
from tests.behaviour.support.backends import version_1
from tests.support.projects import project_in
from tests.support.serving import Served, Serving
from tests.support.waiting import wait_until

APPLICATIONS = applications.__name__
BOUND = 512
"""Chunks that may be under way to somebody who does not read."""
BROKEN = {"broken-off", "raises-late", "start-late"}
WHOLE = {"after-end", "raises-after-end"}


@pytest.fixture(scope="module")
def seen(module_serving: Serving) -> Served:
    """An ASGI application that says what it sees."""
    return module_serving.mount(serve.asgi_app(applications.seen))


@pytest.fixture(scope="module")
def site(module_serving: Serving) -> Served:
    """A Starlette application with a lifespan."""
    return module_serving.mount(serve.asgi_app(framework_applications.site))


@pytest.fixture(scope="module")
def flask_site(module_serving: Serving) -> Served:
    """A Flask application."""
    return module_serving.mount(serve.wsgi_app(framework_applications.flask_site))


# where requests go


@pytest.mark.parametrize(
    "below", ["", "/", "/x", "/x/", "//x", "/a/../b", "/%2e%2e/x", "/a%2Fb", "/%C3%A9", "/-/routes"]
)
def test_every_path_below_the_prefix_is_the_applications(seen: Served, http: httpx.Client, below: str) -> None:
    """As it was sent: decoded once, not normalised, below its root path."""
    told = json.loads(_raw(http, f"{seen.route}{below}"))
    assert (told["root_path"], told["raw_path"]) == (seen.route, f"{seen.route}{below}")
    decoded = below.replace("%2e", ".").replace("%2F", "/").replace("%C3%A9", "é")
    assert told["path"] == seen.route + decoded


def _raw(http: httpx.Client, path: str) -> bytes:
    """Ask for *path* as it is; httpx would normalise it."""
    with contextlib.closing(HTTPConnection(http.base_url.host, http.base_url.port)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_every_method_is_the_applications(seen: Served, http: httpx.Client, method: str) -> None:
    """The proxy answers none by itself."""
    answer = http.request(method, seen.route)
    assert answer.status_code == 200
    assert method == "HEAD" or answer.json()["method"] == method


@pytest.mark.parametrize("path", ["x", "/{name}x", "/{name}/deep"])
def test_what_only_begins_like_the_prefix_is_not_below_it(seen: Served, http: httpx.Client, path: str) -> None:
    """Segments are whole."""
    assert http.get(f"{seen.route}x{path}").status_code == 404


def test_a_prefix_may_have_parameters(client: serve.Client, serving: Serving, http: httpx.Client) -> None:
    """They are path parameters, as below a mount of Starlette."""
    name = serving.backend(serve.asgi_app(applications.seen))
    client.create_endpoint(serving.name(), backend=name, route=f"/{name}/{{tenant:int}}")
    told = http.get(f"/{name}/7/x").json()
    assert (told["root_path"], told["path_params"]) == (f"/{name}/7", {"tenant": 7})
    assert http.get(f"/{name}/seven/x").status_code == 404


def test_an_application_may_have_all_that_is_left(serving: Serving, seen: Served, http: httpx.Client) -> None:
    """Below "/" go what no earlier route takes, and never the proxy's own paths."""
    serving.mount(serve.asgi_app(applications.seen), route="/")
    told = http.get("/no/such/route").json()
    assert (told["root_path"], told["path"]) == ("", "/no/such/route")
    assert http.get("/").json()["path"] == "/"
    assert http.get(f"{seen.route}/x").json()["root_path"] == seen.route
    assert http.get("/-/hack").status_code == 404
    assert http.get("/-/live").text == "ok"


def test_the_first_of_overlapping_prefixes_wins(serving: Serving, seen: Served, http: httpx.Client) -> None:
    """As with all routes."""
    serving.mount(serve.wsgi_app(framework_applications.flask_site), route=f"{seen.route}/inner")
    assert http.get(f"{seen.route}/inner/").json()["root_path"] == seen.route


def test_a_mount_is_listed(client: serve.Client, seen: Served, http: httpx.Client) -> None:
    """With a star, since its methods are the application's to know."""
    assert http.get("/-/routes").json()[seen.route] == [seen.name, ["*"]]
    assert client.list_endpoints()[seen.name]["methods"] == ["*"]


def test_control_headers_do_not_arrive(seen: Served, http: httpx.Client) -> None:
    """Nor do headers that mean one connection only; the shard key is consumed."""
    headers = {"x-serve-shard-key": "k", "x-serve-other": "1", "te": "trailers", "x-own": "1"}
    names = {name for name, _ in http.get(seen.route, headers=headers).json()["headers"]}
    assert "x-own" in names
    assert not names & {"x-serve-shard-key", "x-serve-other", "te"}


def test_an_application_has_no_methods_to_call(seen: Served, http: httpx.Client) -> None:
    """A header cannot name one."""
    assert http.get(seen.route, headers={"x-serve-call-method": "load"}).status_code == 404


def test_user_code_of_an_application_knows_its_time(seen: Served, http: httpx.Client) -> None:
    """The deadline of its request."""
    assert http.get(seen.route).json()["time_left"] is True


@pytest.mark.parametrize(
    "path", ["/../secret", "/%2e%2e/secret", "/..%2fsecret", "//../secret", "/%2fetc/passwd", "/out", "/C:%5Csecret"]
)
def test_files_outside_a_mounted_directory_stay_there(
    serving: Serving, http: httpx.Client, tmp_path: Path, path: str
) -> None:
    """However they are asked for."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_text("file")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "secret")
    mounted = serving.mount(serve.asgi_app(StaticFiles(directory=tmp_path / "root")))
    assert http.get(f"{mounted.route}/file").text == "file"
    assert b"Not Found" in _raw(http, f"{mounted.route}{path}")


# frameworks


def test_fastapi(serving: Serving, http: httpx.Client) -> None:
    """Its routing, validation and documentation work below the prefix."""
    api = serving.mount(serve.asgi_app(framework_applications.api))
    assert http.get(f"{api.route}/items/7?q=x").json() == {"item_id": 7, "q": "x"}
    assert http.get(f"{api.route}/items/seven").status_code == 422
    assert http.get(f"{api.route}/openapi.json").json()["servers"] == [{"url": api.route}]


def test_starlette(site: Served, http: httpx.Client) -> None:
    """It makes links that lead back to it."""
    link = http.get(f"{site.route}/").json()
    assert http.get(link).status_code == 200


def test_flask(flask_site: Served, http: httpx.Client) -> None:
    """It knows its root and its own path."""
    told = http.put(f"{flask_site.route}/").json()
    assert (told["root"], told["path"], told["method"]) == (flask_site.route, "/", "PUT")
    assert told["url"] == str(http.build_request("PUT", f"{flask_site.route}/").url)
    assert http.get(f"{flask_site.route}/nowhere").status_code == 404


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_django(serving: Serving, http: httpx.Client, kind: str) -> None:
    """A whole site, by its import path: its links lead back to it."""
    wrapped = {"wsgi": serve.wsgi_app, "asgi": serve.asgi_app}[kind]
    name = {"wsgi": "application", "asgi": "asgi_application"}[kind]
    mounted = serving.mount(wrapped(f"tests.behaviour.support.django_site:{name}"))
    told = http.get(f"{mounted.route}/admin/?q=é").json()
    assert told["info"] == "/admin/"
    assert told == {
        "path": f"{mounted.route}/admin/",
        "info": "/admin/",
        "link": f"{mounted.route}/admin/7/change/",
        "q": "é",
    }
    changed = http.post(told["link"], data={"a": "1"}).json()
    assert changed == {"number": 7, "form": {"a": "1"}, "method": "POST"}
    assert http.get(f"{mounted.route}/admin/none/").status_code == 404


# lifespan


def test_the_state_of_a_lifespan_is_copied_into_each_request(site: Served, http: httpx.Client) -> None:
    """What a request adds, the next one does not see."""
    for _ in range(2):
        assert http.get(f"{site.route}/state").json() == {"pid": True, "keys": ["pid", "started"]}


def test_a_replica_serves_between_startup_and_shutdown(
    client: serve.Client, serving: Serving, http: httpx.Client, tmp_path: Path
) -> None:
    """Nothing is served before the one, and the other comes once the replica has drained."""
    app = Living(str(tmp_path))
    mounted = serving.mount(serve.asgi_app(app))
    assert http.get(mounted.route).text == "alive"
    assert not app.has("shutdown")
    client.delete_endpoint(mounted.name)
    client.delete_backend(mounted.name)
    assert app.has("shutdown")


def test_an_update_ends_the_old_application(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """Once the new one serves."""
    app = Living(str(tmp_path))
    mounted = serving.mount(serve.asgi_app(app))
    client.update_backend(mounted.name, serve.asgi_app(applications.seen))
    assert app.has("shutdown")


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        (framework_applications.unstartable, "no model file"),
        (Living("/", failure="no disk"), "no disk"),
        ("tests.behaviour.support.applications:missing", "missing"),
        ("tests.behaviour.no_such_module:app", "no_such_module"),
        ("tests.behaviour.support.applications:CHUNK", "application"),
    ],
    ids=["raises", "says-why", "no-name", "no-module", "no-application"],
)
def test_an_application_that_cannot_start_says_why(
    client: serve.Client, serving: Serving, app: Any, reason: str
) -> None:
    """In the caller; nothing is left of it."""
    name = serving.name()
    with pytest.raises(serve.BackendStartError, match=reason):
        client.create_backend(name, serve.asgi_app(app))
    assert name not in client.list_backends()


# bodies


@pytest.mark.parametrize("mounted", ["site", "flask_site"])
def test_an_upload_arrives_whole(mounted: str, http: httpx.Client, request: pytest.FixtureRequest) -> None:
    """Longer than what is held anywhere, of a known length or not."""
    served: Served = request.getfixturevalue(mounted)
    assert http.post(f"{served.route}/upload", content=b"x" * 3_000_000).text == "3000000"
    assert http.post(f"{served.route}/upload", content=iter([b"x" * 1_000_000] * 3)).text == "3000000"
    assert http.post(f"{served.route}/upload", content=iter([b"xy"])).text == "2"


def test_flask_streams(flask_site: Served, http: httpx.Client) -> None:
    """An answer of unknown length."""
    text = http.get(f"{flask_site.route}/numbers").text
    assert text == "".join(f"{number}\n" * 50_000 for number in range(3))


@pytest.mark.parametrize("kind", [Waiting, applications.WsgiWaiting], ids=["asgi", "wsgi"])
def test_a_piece_leaves_before_the_next_is_made(
    serving: Serving, http: httpx.Client, tmp_path: Path, kind: Any
) -> None:
    """As server-sent events need it."""
    app = kind(str(tmp_path))
    mounted = serving.mount(_wrapped(app))
    with http.stream("GET", mounted.route) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"one"
        app.note("go")
        assert b"".join(pieces) == b"two"


@pytest.fixture
def silent(serving: Serving, http: httpx.Client, tmp_path: Path) -> Iterator[tuple[Silent, RawExchange]]:
    """An application that has said its head and nothing more, and the exchange that is asking it."""
    app = Silent(str(tmp_path))
    mounted = serving.mount(serve.asgi_app(app))
    with RawExchange(str(http.base_url), "GET", mounted.route) as exchange:
        exchange.end()
        assert exchange.head().status_code == 200
        yield app, exchange


def test_a_head_does_not_wait_for_its_body(silent: tuple[Silent, RawExchange]) -> None:
    """The application has sent it by itself."""
    app, exchange = silent
    app.note("go")
    assert exchange.read_at_least(3) == b"all"


def test_what_fails_after_its_head_breaks_off(silent: tuple[Silent, RawExchange]) -> None:
    """Though nothing of the body has left: an empty answer must not look whole."""
    app, exchange = silent
    app.note("fail")
    app.note("go")
    with pytest.raises(ConnectionError):
        exchange.read()


@pytest.mark.parametrize("kind", [Flooding, WsgiFlooding], ids=["asgi", "wsgi"])
def test_who_does_not_read_stops_the_application(
    serving: Serving, http: httpx.Client, tmp_path: Path, kind: Any
) -> None:
    """It comes no further than the buffers on the way; when the client leaves, it is stopped."""
    app = kind(str(tmp_path))
    mounted = serving.mount(_wrapped(app))
    with http.stream("GET", mounted.route) as answer:
        chunks = answer.iter_raw()  # which ends the answer when nobody holds it
        next(chunks)
        wait_until(lambda: app.has("produced"))
        seen: list[str] = []
        wait_until(lambda: _settled(seen, (tmp_path / "produced").read_text()))
        assert int(seen[-1] or 0) < BOUND < FLOOD
        assert not app.has("stopped")
    wait_until(lambda: app.has("stopped"))


def _settled(seen: list[str], now: str) -> bool:
    """Whether the last fifty looks saw the same."""
    seen.append(now)
    return len(seen) > 50 and len(set(seen[-50:])) == 1 and now != ""


def _wrapped(app: Any) -> Any:
    wrap = serve.wsgi_app if type(app).__name__.startswith("Wsgi") else serve.asgi_app
    return wrap(app)


@pytest.mark.parametrize("headers", [{"Content-Length": "200000"}, {}], ids=["length", "chunks"])
def test_a_broken_upload_does_not_reach_a_wsgi_application(
    client: serve.Client, serving: Serving, http: httpx.Client, tmp_path: Path, headers: dict[str, str]
) -> None:
    """The application is called when all of the body has come, and knows its length."""
    mounted = serving.mount(serve.wsgi_app(WsgiLengths(str(tmp_path / "lengths"))))

    def body(*, breaks: bool) -> Iterator[bytes]:
        yield b"x" * 100_000
        if breaks:
            raise InterruptedError
        yield b"x" * 100_000

    with httpx.Client(base_url=http.base_url, trust_env=False, timeout=30) as leaving, pytest.raises(InterruptedError):
        leaving.post(mounted.route, content=body(breaks=True), headers=headers)
    assert http.post(mounted.route, content=body(breaks=False), headers=headers).status_code == 200
    assert (tmp_path / "lengths").read_text() == "200000 "


def test_what_is_written_precedes_what_is_returned(serving: Serving, http: httpx.Client) -> None:
    """By the callable that `start_response` returns."""
    assert http.get(serving.mount(serve.wsgi_app(applications.writing)).route).text == "one two three"


def test_what_is_longer_than_declared_is_cut(serving: Serving, http: httpx.Client) -> None:
    """The next answer on the connection is unharmed."""
    mounted = serving.mount(serve.wsgi_app(applications.overlong))
    assert [http.get(mounted.route).text for _ in range(2)] == ["1234", "1234"]


@pytest.mark.parametrize("path", ["/", "/numbers"])
def test_an_answer_to_head_has_no_body(flask_site: Served, http: httpx.Client, path: str) -> None:
    """Of a known length or not; the connection serves on."""
    answer = http.head(flask_site.route + path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers.get("content-length") != "0"
    assert http.get(f"{flask_site.route}/").status_code == 200


def test_a_file_is_sent_whole(serving: Serving, http: httpx.Client) -> None:
    """By `wsgi.file_wrapper`; what concerns a connection is left out."""
    mounted = serving.mount(serve.wsgi_app(applications.sending_file))
    answer = http.get(mounted.route)
    assert answer.content == Path(applications.__file__).read_bytes()


# WSGI's environment


def test_the_environment_is_that_of_the_specification(serving: Serving, http: httpx.Client) -> None:
    """As the checker of the standard library has it; a client's headers are no more than headers."""
    mounted = serving.mount(serve.wsgi_app(f"{APPLICATIONS}:checked"))
    headers = dict.fromkeys(("Script-Name", "Path-Info", "Remote-User", "Proxy", "Server-Name"), "evil")
    environ = http.post(f"{mounted.route}/%C3%A9?a=1", headers={**headers, "cookie": "a=1"}, content=b"body").json()
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (mounted.route, "/é".encode().decode("latin-1"))
    assert (environ["QUERY_STRING"], environ["CONTENT_LENGTH"], environ["HTTP_COOKIE"]) == ("a=1", "4", "a=1")
    assert environ["SERVER_NAME"] != "evil"
    assert not {"REMOTE_USER", "HTTP_PROXY"} & environ.keys()
    assert (environ["HTTP_REMOTE_USER"], environ["REMOTE_ADDR"]) == ("evil", "127.0.0.1")


def test_the_head_may_change_until_it_has_left(serving: Serving, http: httpx.Client) -> None:
    """An error page replaces a head that nobody has seen."""
    answer = http.get(serving.mount(serve.wsgi_app(applications.replacing)).route)
    assert (answer.status_code, answer.text, answer.headers["x-second"]) == (418, "sorry", "2")
    assert "x-first" not in answer.headers


# WebSockets


def test_a_websocket_reaches_the_application(client: serve.Client, site: Served) -> None:
    """With its path, its subprotocols and the state of the lifespan."""
    url = client.http_urls[0].replace("http://", "ws://") + f"{site.route}/rooms/7"
    with connect(url, proxy=None, subprotocols=["chat"]) as websocket:  # type: ignore[list-item]
        assert websocket.subprotocol == "chat"
        websocket.send("hello")
        assert websocket.recv() == "7: hello True"


@pytest.mark.parametrize(("mounted", "status"), [("site", 403), ("seen", 500), ("flask_site", 501)])
def test_a_websocket_may_be_denied(
    client: serve.Client, request: pytest.FixtureRequest, mounted: str, status: int
) -> None:
    """By the application, by an error of it, or because WSGI knows none."""
    served: Served = request.getfixturevalue(mounted)
    url = client.http_urls[0].replace("http://", "ws://") + f"{served.route}/nowhere"
    with pytest.raises(InvalidStatus) as refused:
        connect(url, proxy=None)
    assert refused.value.response.status_code == status


# what an application does wrong


@pytest.fixture(scope="module")
def mistaken(module_serving: Serving) -> Served:
    """An ASGI application that does what the path says."""
    return module_serving.mount(serve.asgi_app(applications.mistaken))


@pytest.mark.parametrize("mistake", [*MISTAKES])
def test_a_mistake_is_a_500_or_breaks_the_answer_off(mistaken: Served, http: httpx.Client, mistake: str) -> None:
    """Never half an answer that looks whole; the next request is served."""
    _check_mistake(http, f"{mistaken.route}/{mistake}", whole=mistake in WHOLE, broken=mistake in BROKEN)


@pytest.fixture(scope="module")
def wsgi_mistaken(module_serving: Serving) -> Served:
    """A WSGI application that does what the path says."""
    return module_serving.mount(serve.wsgi_app(applications.wsgi_mistaken))


@pytest.mark.parametrize(
    "mistake",
    [
        *("silent", "raises", "raises-reset", "exits", "bad-status", "two-starts", "nothing", "text", "short"),
        *("raises-late", "raises-closing"),
    ],
)
def test_a_mistake_of_wsgi_too(wsgi_mistaken: Served, http: httpx.Client, mistake: str) -> None:
    """As with ASGI."""
    whole, broken = mistake == "raises-closing", mistake in ("raises-late", "short")
    _check_mistake(http, f"{wsgi_mistaken.route}/{mistake}", whole=whole, broken=broken)


def _check_mistake(http: httpx.Client, path: str, *, whole: bool, broken: bool) -> None:
    if broken:
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(path)
        return
    answer = http.get(path)
    assert answer.status_code == (200 if whole else 500)
    assert answer.headers["x-request-id"]
    assert "secret" not in answer.text


# what is refused


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: serve.asgi_app(3), TypeError),
        (lambda: serve.asgi_app(Flask), TypeError),
        (lambda: serve.asgi_app("no path"), serve.ConfigError),
        (lambda: serve.wsgi_app(serve.wsgi_app("a:b")), TypeError),
        (lambda: serve.wsgi_app(framework_applications.api), serve.ConfigError),
        (lambda: serve.asgi_app(framework_applications.flask_site), serve.ConfigError),
    ],
    ids=["number", "class", "path", "twice", "asgi-as-wsgi", "wsgi-as-asgi"],
)
def test_what_is_no_application_is_refused(wrong: Any, error: type[Exception]) -> None:
    """Where it is written."""
    with pytest.raises(error):
        wrong()


@pytest.mark.parametrize(
    "options",
    [{"max_batch_size": 2}, {"user_config": 1}, {"exposed_methods": ["x"]}],
    ids=["batches", "user-config", "methods"],
)
def test_options_that_mean_nothing_are_refused(client: serve.Client, seen: Served, options: Any) -> None:
    """When it is created, and later."""
    with pytest.raises(serve.ConfigError, match=next(iter(options))):
        client.create_backend("never", serve.asgi_app(applications.seen), config=options)
    with pytest.raises(serve.ConfigError, match=next(iter(options))):
        client.update_backend_config(seen.name, options)


def test_an_application_takes_no_arguments(client: serve.Client) -> None:
    """It is made already."""
    with pytest.raises(serve.ConfigError, match="constructor"):
        client.create_backend("never", serve.asgi_app(applications.seen), 1)


def test_a_mount_is_given_no_methods(client: serve.Client, seen: Served) -> None:
    """The application has its own; nothing is created."""
    with pytest.raises(ValueError, match="methods of its own"):
        client.create_endpoint("never", backend=seen.name, route="/never", methods=["GET"])
    assert "never" not in client.list_endpoints()


@pytest.mark.parametrize("route", ["/-", "/a/{rest:path}"])
def test_a_route_that_is_no_prefix_is_refused(client: serve.Client, seen: Served, route: str) -> None:
    """Where it ends must be clear."""
    with pytest.raises(ValueError, match="route"):
        client.create_endpoint("never", backend=seen.name, route=route)


def test_an_endpoint_has_backends_of_one_kind(client: serve.Client, serving: Serving, seen: Served) -> None:
    """Applications or other code: neither a split nor a shadow mixes them, and the old traffic stays."""
    code = serving(version_1)
    for endpoint, other in ((seen.name, code.name), (code.name, seen.name)):
        before = client.list_endpoints()[endpoint]
        with pytest.raises(serve.ConfigError, match="application"):
            client.set_traffic(endpoint, {endpoint: 0.5, other: 0.5})
        with pytest.raises(serve.ConfigError, match="application"):
            client.shadow_traffic(endpoint, other, 0.5)
        assert client.list_endpoints()[endpoint] == before


def test_an_update_does_not_change_the_kind(
    client: serve.Client, serving: Serving, seen: Served, http: httpx.Client
) -> None:
    """The endpoints before it are made for what it is."""
    code = serving(version_1)
    with pytest.raises(serve.ConfigError, match="create another"):
        client.update_backend(seen.name, version_1)
    with pytest.raises(serve.ConfigError, match="needs a backend of its own"):
        client.update_backend(code.name, serve.asgi_app(applications.seen))
    assert http.get(code.route).text == "v1"


@pytest.mark.parametrize("mounted", ["seen", "flask_site"])
def test_a_handle_cannot_call_an_application(request: pytest.FixtureRequest, mounted: str, runtime: str) -> None:
    """It says so at once."""
    served: Served = request.getfixturevalue(mounted)
    with pytest.raises(serve.ConfigError, match="answers HTTP requests"):
        served.handle.call({"a": 1})
    with pytest.raises(serve.ConfigError, match="answers HTTP requests"):
        list(served.handle.stream())
    if runtime == "ray":
        ray = request.getfixturevalue("ray_cluster")
        with pytest.raises(serve.ConfigError, match="answers HTTP requests"):
            ray.get(served.handle.remote())


def test_an_object_that_cannot_travel_is_refused(client: serve.Client) -> None:
    """The error says what to do."""
    local = Flask("local")
    local.extensions["lock"] = threading.Lock()
    with pytest.raises(serve.SerializationError, match="import path"):
        client.create_backend("never", serve.wsgi_app(local))
    assert "never" not in client.list_backends()


# what holds for all backends


def test_defaults_are_those_of_the_kind(client: serve.Client, seen: Served, flask_site: Served) -> None:
    """A hundred at once on a loop, eight at once before the threads."""
    assert client.get_backend_config(seen.name).max_concurrent_queries == 100
    config = client.get_backend_config(flask_site.name)
    assert (config.max_concurrent_queries, config.threads) == (8, 1)


def test_traffic_is_split_and_shadowed_between_applications(
    client: serve.Client, serving: Serving, http: httpx.Client, tmp_path: Path
) -> None:
    """ASGI or WSGI, one version beside the other; a shadow never answers."""
    mounted = serving.mount(serve.wsgi_app(framework_applications.flask_site))
    other = serving.backend(serve.asgi_app(applications.seen))
    shadow = WsgiReading(str(tmp_path))
    client.shadow_traffic(mounted.name, serving.backend(serve.wsgi_app(shadow)), 1.0)
    assert "root" in http.get(f"{mounted.route}/").json()
    wait_until(lambda: shadow.has("begun"))
    client.set_traffic(mounted.name, {mounted.name: 0, other: 1})
    assert "root_path" in http.get(f"{mounted.route}/").json()


def test_a_declared_application_is_deployed(client: serve.Client, tmp_path: Path, http: httpx.Client) -> None:
    """From a directory that only its declaration knows; a second deployment has nothing to do."""
    with project_in(tmp_path) as project:
        project.write(
            "shop_site.wsgi",
            """
            def application(environ, start_response):
                start_response("200 OK", [])
                return [environ["SCRIPT_NAME"].encode()]
            """,
        )
        project.write(
            "shop_backends",
            """
            import serve_bridge as serve
            shop = serve.backend("shop", route="/shop", num_replicas=1)(serve.wsgi_app("shop_site.wsgi:application"))
            """,
        )
        made = serve.deploy("shop_backends", client=client)
        try:
            assert [change.kind for change in made.changes] == ["create backend", "create endpoint"]
            assert http.get("/shop/x").text == "/shop"
            assert not serve.deploy("shop_backends", client=client).changes
        finally:
            client.delete_endpoint("shop")
            client.delete_backend("shop")


@pytest.mark.parametrize(
    "wrong",
    [
        'serve.backend(route="/x")(serve.wsgi_app("a:b"))',
        'serve.backend("x", route="/x", methods=["GET"])(serve.wsgi_app("a:b"))',
        'serve.backend("x", route="/{p:path}")(serve.wsgi_app("a:b"))',
        'serve.backend("x", user_config=1)(serve.wsgi_app("a:b"))',
    ],
    ids=["no-name", "methods", "route", "option"],
)
def test_a_wrong_declaration_of_an_application_is_refused(wrong: str) -> None:
    """Where it is written."""
    with pytest.raises(ValueError):  # noqa: PT011  # each has its own message
        eval(wrong, {"serve": serve})
