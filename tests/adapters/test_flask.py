"""What is special to Flask."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, g, got_request_exception, request, session, url_for
from flask_wtf.csrf import CSRFProtect, generate_csrf
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable

import serve_bridge as serve
from serve_bridge.adapters.flask import ServeBridge
from tests.adapters.support.flask_shop import create_app, torn_down

MakeApp = Callable[..., Flask]
BOUNDARY = "boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
FORM = "application/x-www-form-urlencoded"
CHUNKED: dict[str, Any] = {
    "headers": {"transfer-encoding": "chunked"},
    "environ_overrides": {"wsgi.input_terminated": True},
}

closed = threading.Event()


def flask_state(request: Any) -> dict[str, Any]:
    """Return what came along."""
    return dict(request.state._state)


def endless(request: Any) -> Iterator[str]:
    """Stream until somebody is tired of it."""
    try:
        while True:
            yield "x" * 100_000
    finally:
        closed.set()


@pytest.fixture(scope="module", autouse=True)
def _backends(engine: serve.Client) -> Iterator[None]:
    for backend in (flask_state, endless):
        engine.create_backend(backend.__name__, backend)
        engine.create_endpoint(backend.__name__, backend=backend.__name__)
    yield
    for backend in (flask_state, endless):
        engine.delete_endpoint(backend.__name__)
        engine.delete_backend(backend.__name__)


@pytest.fixture
def make_app(engine: serve.Client) -> Iterator[MakeApp]:
    """Make apps of the instance; what they have connected is let go in the end."""
    apps = []

    def make(bridge: ServeBridge | None = None, **config: Any) -> Flask:
        app = Flask(__name__)
        app.secret_key = "tests"
        app.config.update({"SERVE_BRIDGE_ADDRESS": engine.address, **config})
        (bridge or ServeBridge()).init_app(app)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["serve_bridge"].close()


def forward(app: Flask, rule: str, endpoint: str, **options: Any) -> Any:
    """Add a view that forwards to *endpoint*; return it."""
    view = ServeBridge().view(endpoint, **options)
    app.add_url_rule(rule, endpoint=rule.strip("/"), view_func=view, methods=["GET", "POST"])
    return view


# errors


def test_the_apps_error_handlers_run(make_app: MakeApp, tmp_path: Path) -> None:
    """No instance is a ServiceUnavailable with a time to come back."""
    app = make_app(SERVE_BRIDGE_ADDRESS=str(tmp_path / "none.json"))
    forward(app, "/counter", "counter")

    @app.errorhandler(503)
    def unavailable(error: ServiceUnavailable) -> Any:
        return f"back in {error.retry_after} or {error.get_response().headers['retry-after']}", 503

    answer = app.test_client().get("/counter")
    assert (answer.status_code, answer.text) == (503, "back in 1 or 1")


def test_a_handler_of_all_our_errors_runs_for_what_a_view_calls(make_app: MakeApp) -> None:
    """As it would for any other error; the extension's own handler steps back."""
    app = make_app()

    @app.get("/called")
    def called() -> Any:
        return app.extensions["serve_bridge"].get_handle("missing").call()

    @app.errorhandler(serve.ServeBridgeError)
    async def failed(error: serve.ServeBridgeError) -> Any:
        return type(error).__name__, 418

    answer = app.test_client().get("/called")
    assert (answer.status_code, answer.text) == (418, "EndpointNotFound")


def test_an_error_without_a_handler_is_a_problem(make_app: MakeApp) -> None:
    """As everywhere (RFC 9457)."""
    app = make_app()
    forward(app, "/missing", "missing")
    answer = app.test_client().get("/missing")
    assert (answer.status_code, answer.content_type) == (503, "application/problem+json")


def test_a_failing_backend_reaches_the_handler_for_all_errors(make_app: MakeApp) -> None:
    """It is an InternalServerError like that of a failing view."""
    app = make_app()
    forward(app, "/failing", "failing")

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Any:
        return {"code": error.code}, error.code

    assert app.test_client().get("/failing").json == {"code": 500}


def test_a_handler_of_500_finds_what_the_backend_raised(make_app: MakeApp) -> None:
    """With its traceback."""
    app = make_app()
    forward(app, "/failing", "failing")

    @app.errorhandler(500)
    def failed(error: InternalServerError) -> Any:
        found = error.original_exception
        assert isinstance(found, serve.BackendError)
        return f"{found.type_name}: {found.text}, {'in failing' in found.remote_traceback}", 500

    assert app.test_client().get("/failing").text == "RuntimeError: secret, True"


def test_a_failing_backend_is_signalled(make_app: MakeApp) -> None:
    """To error trackers, as a failing view is."""
    app = make_app()
    forward(app, "/failing", "failing")
    seen = []

    def note(sender: Flask, exception: Exception, **_: Any) -> None:
        seen.append(exception)

    with got_request_exception.connected_to(note, app):
        assert app.test_client().get("/failing").status_code == 500
    assert [type(each) for each in seen] == [serve.BackendError]


@pytest.mark.parametrize("option", ["TESTING", "PROPAGATE_EXCEPTIONS"])
def test_a_failing_backend_is_propagated(make_app: MakeApp, option: str) -> None:
    """To the test, or the debugger."""
    app = make_app(**{option: True})
    forward(app, "/failing", "failing")
    with pytest.raises(serve.BackendError, match="secret"):
        app.test_client().get("/failing")


def test_an_error_page_of_the_app_names_the_request(make_app: MakeApp) -> None:
    """So that the log can be searched for it."""
    app = make_app()
    forward(app, "/missing", "missing")
    app.register_error_handler(503, lambda error: ("nothing here", 503))
    answer = app.test_client().get("/missing", headers={"x-request-id": "mine-1"})
    assert (answer.text, answer.headers.getlist("x-request-id")) == ("nothing here", ["mine-1"])


def test_other_answers_of_the_app_stay_as_they_are(make_app: MakeApp) -> None:
    """Even in the same application context."""
    app = make_app()
    forward(app, "/missing", "missing")
    app.add_url_rule("/own", view_func=lambda: "own", endpoint="own")
    with app.app_context():
        app.test_client().get("/missing")
        assert "x-request-id" not in app.test_client().get("/own").headers


# bodies


def test_the_apps_limit_on_bodies_holds(make_app: MakeApp) -> None:
    """MAX_CONTENT_LENGTH."""
    app = make_app(MAX_CONTENT_LENGTH=10)
    forward(app, "/echo", "echo")
    assert app.test_client().post("/echo", data=b"x" * 11).status_code == 413


def test_the_apps_limit_holds_for_a_body_of_unknown_length(make_app: MakeApp) -> None:
    """It is counted while it is streamed."""
    app = make_app(MAX_CONTENT_LENGTH=200_000)
    forward(app, "/echo", "echo")
    answer = app.test_client().post("/echo", input_stream=io.BytesIO(b"x" * 300_000), **CHUNKED)
    assert answer.status_code == 413


def test_a_body_of_unknown_length_arrives(make_app: MakeApp) -> None:
    """If the server can tell where it ends."""
    app = make_app()
    forward(app, "/echo", "echo")
    answer = app.test_client().post("/echo", input_stream=io.BytesIO(b"x" * 300_000), **CHUNKED)
    assert answer.json is not None
    assert len(answer.json["body"]) == 300_000


def test_a_route_has_its_own_limit(make_app: MakeApp) -> None:
    """As a RequestEntityTooLarge."""
    app = make_app()
    forward(app, "/echo", "echo", max_body_bytes=10)
    assert app.test_client().post("/echo", data=b"x" * 11).status_code == 413


@pytest.mark.parametrize("length", [10, 300_000])
def test_a_client_that_leaves_during_its_upload_is_no_error_of_the_app(make_app: MakeApp, length: int) -> None:
    """It is a 400, and nothing is raised."""
    app = make_app(TESTING=True)
    forward(app, "/echo", "echo")
    environ = {"CONTENT_LENGTH": str(length)}
    answer = app.test_client().post("/echo", input_stream=io.BytesIO(b"x"), environ_overrides=environ)
    assert answer.status_code == 400


@pytest.mark.parametrize("read", [lambda: request.get_data(), lambda: request.get_json(silent=True)])
def test_a_body_that_a_hook_has_read_arrives(make_app: MakeApp, read: Callable[[], Any]) -> None:
    """As it came."""
    app = make_app()
    forward(app, "/echo", "echo")

    @app.before_request
    def look() -> None:
        read()

    answer = app.test_client().post("/echo", data=b"[1]", content_type="application/json")
    assert answer.json is not None
    assert answer.json["body"] == "[1]"


def _parses_forms(app: Flask) -> Flask:
    @app.before_request
    def look() -> None:
        request.form.get("token")
        for file in request.files.values():
            file.read(1)

    return app


def test_an_upload_that_a_hook_has_parsed_arrives(make_app: MakeApp) -> None:
    """Fields, repeated ones too, and files."""
    app = _parses_forms(make_app())
    forward(app, "/form", "form")
    data = {"token": "1", "name": "ü\r\n", "file": (io.BytesIO(b"content"), "ü.txt")}
    answer = app.test_client().post("/form", data=data)
    assert answer.json == {"token": "1", "name": "ü\r\n", "file": ["ü.txt", "content"]}


def test_a_large_upload_that_a_hook_has_parsed_arrives(make_app: MakeApp) -> None:
    """It is read from where werkzeug has put it."""
    app = _parses_forms(make_app())
    forward(app, "/form", "form")
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\n'
    body = f"{head}{'0123456789' * 200_000}\r\n--{BOUNDARY}--\r\n"
    answer = app.test_client().post("/form", data=body, content_type=MULTIPART)
    assert answer.json == {"file": ["f.txt", "0123456789" * 200_000]}


def test_a_form_that_a_hook_has_parsed_arrives(make_app: MakeApp) -> None:
    """Encoded again."""
    app = _parses_forms(make_app())
    forward(app, "/echo", "echo")
    answer = app.test_client().post("/echo", data="a=1&a=2&b=%26%C3%BC&c=", content_type=FORM)
    assert answer.json is not None
    assert answer.json["body"] == "a=1&a=2&b=%26%C3%BC&c="


def test_a_field_that_a_hook_has_seen_does_not_become_two(make_app: MakeApp) -> None:
    """Its name may hold anything, also what ends a header."""
    app = _parses_forms(make_app())
    forward(app, "/form", "form")
    name = "a%22%0D%0A%0D%0Ax%0D%0A--boundary%0D%0AContent-Disposition: form-data; name=%22admin"
    part = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name*=utf-8''{name}\r\n\r\nyes\r\n--{BOUNDARY}--\r\n"
    answer = app.test_client().post("/form", data=part, content_type=MULTIPART)
    assert answer.json is not None
    assert "admin" not in answer.json
    assert list(answer.json.values()) == ["yes"]


def test_json_under_a_hook_that_looks_for_a_form_arrives(make_app: MakeApp) -> None:
    """Parsing it as a form reads nothing."""
    app = _parses_forms(make_app())
    forward(app, "/echo", "echo")
    answer = app.test_client().post("/echo", json=[1])
    assert answer.json is not None
    assert answer.json["body"] == "[1]"


def test_a_multipart_body_that_is_no_form_arrives(make_app: MakeApp) -> None:
    """Bodies of `multipart/mixed` have a boundary, but werkzeug does not parse them."""
    app = _parses_forms(make_app())
    forward(app, "/echo", "echo")
    body = f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--\r\n"
    answer = app.test_client().post("/echo", data=body, content_type=f"multipart/mixed; boundary={BOUNDARY}")
    assert answer.json is not None
    assert answer.json["body"] == body


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"a=\xe9", FORM, 400),
        (b"", FORM, 200),
        (b'--boundary\r\nContent-Disposition: form-data; name="a"\r\n\r\ncut short', MULTIPART, 400),
        (b"--boundary--\r\n", MULTIPART, 200),
    ],
)
def test_a_malformed_form_that_a_hook_has_read_is_refused(
    make_app: MakeApp, body: bytes, media_type: str, status: int
) -> None:
    """A form that werkzeug drops silently is not an empty one, and the backend does not get it."""
    app = _parses_forms(make_app())
    forward(app, "/form", "form")
    answer = app.test_client().post("/form", data=body, content_type=media_type)
    assert answer.status_code == status
    assert status == 400 or answer.json == {}


@pytest.mark.parametrize("terminated", [False, True])
def test_a_body_that_is_gone_is_the_apps_error(make_app: MakeApp, terminated: bool) -> None:
    """The message says how a hook keeps it."""
    app = make_app(TESTING=True)
    forward(app, "/echo", "echo")

    @app.before_request
    def consume() -> None:
        request.stream.read()

    environ = {"wsgi.input_terminated": True} if terminated else {}
    with pytest.raises(RuntimeError, match=r"request\.get_data\(\)"):
        app.test_client().post("/echo", data=b"hello", environ_overrides=environ)


# answers


def test_a_stream_that_the_client_leaves_is_closed(make_app: MakeApp) -> None:
    """The backend's generator ends."""
    app = make_app()
    forward(app, "/endless", "endless")
    closed.clear()
    answer = app.test_client().get("/endless", buffered=False)
    assert next(iter(answer.response))
    answer.close()
    assert closed.wait(10)


def test_head_has_the_headers_of_get(make_app: MakeApp) -> None:
    """And no body."""
    app = make_app()
    forward(app, "/answer", "answer")
    got, head = app.test_client().get("/answer"), app.test_client().head("/answer")
    assert (head.status_code, head.data) == (418, b"")
    assert head.headers.get("content-length") in (None, got.headers["content-length"])
    assert head.headers.getlist("set-cookie") == got.headers.getlist("set-cookie")


def test_an_answer_without_a_type_gets_none(make_app: MakeApp) -> None:
    """Flask's default is for what Flask's views return."""
    app = make_app()
    forward(app, "/answer", "answer")
    assert app.test_client().get("/answer").content_type == "text/x; charset=utf-8"


def test_the_apps_own_class_of_responses_is_used(make_app: MakeApp) -> None:
    """So that hooks find what they expect."""
    app = make_app()
    forward(app, "/answer", "answer")

    class Own(Response):
        pass

    app.response_class = Own
    seen: list[Any] = []
    app.after_request(lambda response: seen.append(response) or response)
    app.test_client().get("/answer")
    assert isinstance(seen[0], Own)


# what goes along


def test_facts_of_the_app_go_along(make_app: MakeApp) -> None:
    """Those that are named."""
    app = make_app()
    context = {"user": "session.user_id", "tenant": "g.tenant", "peer": "request.remote_addr", "none": "g.nothing"}
    context["id"] = "session._user_id"
    forward(app, "/state", "flask_state", context=context)

    @app.before_request
    def login() -> None:
        session["user_id"], session["_user_id"], g.tenant = 7, "8", "blue"

    seen = app.test_client().get("/state").json
    assert seen == {"user": 7, "tenant": "blue", "peer": "127.0.0.1", "none": None, "id": "8"}


def test_a_function_says_what_goes_along(make_app: MakeApp) -> None:
    """It is given Flask's own request, session and g."""
    app = make_app()
    forward(app, "/state", "flask_state", context=lambda web: {"path": web.request.path})
    assert app.test_client().get("/state").json == {"path": "/state"}


def test_a_misspelt_fact_is_the_apps_error(make_app: MakeApp) -> None:
    """It must not look as if nobody were logged in; all beginnings are known when the route is made."""
    context = {"user": "sesion.user_id"}
    with pytest.raises(serve.ConfigError, match="begins with 'sesion'; a path begins with request, session or g"):
        ServeBridge().view("flask_state", context=context)
    with pytest.raises(serve.ConfigError, match="'sesion'"):
        make_app(SERVE_BRIDGE_ROUTES={"/state": {"endpoint": "flask_state", "context": context}})


def test_a_private_fact_is_the_apps_error(make_app: MakeApp) -> None:
    """Only keys may begin with an underscore; where an attribute is, shows with the request."""
    app = make_app(TESTING=True)
    forward(app, "/state", "flask_state", context={"user": "g._login_user"})
    with pytest.raises(serve.ConfigError, match="the private attribute '_login_user'"):
        app.test_client().get("/state")


def test_hooks_run_around_a_forwarded_route(make_app: MakeApp) -> None:
    """A login check in `before_request` guards it."""
    app = make_app()
    forward(app, "/counter", "counter")

    @app.before_request
    def login() -> Any:
        return None if "user" in request.args else ("who are you", 401)

    assert app.test_client().get("/counter").status_code == 401
    assert app.test_client().get("/counter?user=me").text == "call"


def test_a_view_calls_a_handle(make_app: MakeApp) -> None:
    """Synchronously, without Ray in the process."""
    app = make_app()
    bridge = ServeBridge()
    app.add_url_rule("/h", "h", lambda: bridge.get_handle("counter").options(method_name="add").call(1, by="2"))
    assert app.test_client().get("/h").json == {"sum": 3}


# the extension


def test_a_second_init_app_changes_nothing() -> None:
    """The first bridge stays."""
    app = Flask(__name__)
    bridge = ServeBridge(app)
    first = app.extensions["serve_bridge"]
    bridge.init_app(app)
    assert app.extensions["serve_bridge"] is first


def test_an_app_without_the_extension_is_told_so() -> None:
    """Which call is missing."""
    app = Flask(__name__)
    with app.app_context(), pytest.raises(RuntimeError, match="init_app"):
        ServeBridge().get_handle("x")


def test_one_extension_serves_several_apps(make_app: MakeApp, tmp_path: Path) -> None:
    """Each with its own configuration."""
    bridge = ServeBridge()
    bridge.route("/counter", "counter")
    here, there = make_app(bridge), make_app(bridge, SERVE_BRIDGE_ADDRESS=str(tmp_path / "none.json"))
    assert here.test_client().get("/counter").text == "call"
    assert there.test_client().get("/counter").status_code == 503


def test_the_extension_keeps_no_app() -> None:
    """An app that nobody needs any more goes away."""
    bridge = ServeBridge()
    bridge.route("/counter", "counter")
    app: Flask | None = Flask(__name__)
    assert app is not None
    app.config["SERVE_BRIDGE_ROUTES"] = {"/own": "counter"}
    bridge.init_app(app)
    gone = weakref.ref(app)
    app = None
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ADRESS", "x", "SERVE_BRIDGE_ADRESS is not a setting .* did you mean 'SERVE_BRIDGE_ADDRESS'"),
        ("TIMEOUT", 5, "did you mean 'SERVE_BRIDGE_TIMEOUT_S'"),
        ("TIMEOUT_S", "x", "SERVE_BRIDGE_TIMEOUT_S must be a number of seconds"),
        ("ADDRESS", 7, "SERVE_BRIDGE_ADDRESS must be a str"),
        ("NAME", "a b", "SERVE_BRIDGE_NAME: instance name"),
        ("NAME", 7, "SERVE_BRIDGE_NAME: instance name must be a str"),
        ("RUNTIME", "ray", "SERVE_BRIDGE_RUNTIME must be 'local'"),
        ("BACKENDS", "shop.backends", "SERVE_BRIDGE_BACKENDS must be a list"),
        ("ROUTES", ["/x"], "SERVE_BRIDGE_ROUTES must be a dict"),
        ("ROUTES", {"/x": {"endpoint": "e", "timeout_s": "x"}}, r"SERVE_BRIDGE_ROUTES\['/x'\].timeout_s must be"),
        ("ROUTES", {"/x": {"endpoint": "e", "timeout": 1}}, "did you mean 'timeout_s'"),
        ("ROUTES", {"/x": {"endpoint": "e", "name": "a.b"}}, "must be a name without a dot"),
        ("ROUTES", {"/{x:int}/<y>": "e"}, r"SERVE_BRIDGE_ROUTES\['/{x:int}/<y>'\]: .*did you mean '/<int:x>/<y>'"),
        ("ROUTES", {"x": "e"}, r"SERVE_BRIDGE_ROUTES\['x'\]: .*slash"),
        ("ROUTES", {"/<nope:x>": "e"}, r"SERVE_BRIDGE_ROUTES\['/<nope:x>'\]: .*'nope'"),
        ("ROUTES", {"/a": "e", "/b": {"endpoint": "e", "timeout_s": 1}}, "are both named 'e'"),
    ],
)
def test_a_wrong_setting_is_named(key: str, value: Any, message: str) -> None:
    """By `init_app`, with what to do about it."""
    app = Flask(__name__)
    app.config[f"SERVE_BRIDGE_{key}"] = value
    with pytest.raises((serve.ConfigError, TypeError), match=message):
        ServeBridge(app)


def test_an_address_may_be_a_path(make_app: MakeApp, engine: serve.Client) -> None:
    """As in Django's settings, and as an argument of the other adapters."""
    app = make_app(SERVE_BRIDGE_ADDRESS=Path(engine.address))
    with app.app_context():
        assert app.extensions["serve_bridge"].client().address == engine.address


def test_the_environment_configures(monkeypatch: pytest.MonkeyPatch, engine: serve.Client) -> None:
    """By Flask's own `from_prefixed_env`."""
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_ADDRESS", engine.address)
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_TIMEOUT_S", "5")
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_ROUTES", '{"/counter": "counter"}')
    app = Flask(__name__)
    app.config.from_prefixed_env()
    ServeBridge(app)
    assert app.test_client().get("/counter").text == "call"
    app.extensions["serve_bridge"].close()


def test_the_backends_run_inside_the_process_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """For development and tests; those that ask for it in an application context, which is torn down."""
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_RUNTIME", "local")
    app = create_app()
    torn_down.clear()
    assert app.test_client().get("/price/7").text == "7 USD"
    assert "7" in torn_down
    app.extensions["serve_bridge"].close()


@pytest.mark.parametrize("endpoint", ["prices", "aprices"])
def test_a_stream_of_a_backend_stays_in_the_apps_context(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """From its first item to its last."""
    monkeypatch.setenv("FLASK_SERVE_BRIDGE_RUNTIME", "local")
    app = create_app()
    forward(app, "/prices", endpoint)
    assert app.test_client().get("/prices").text == "0 USD\n1 USD\n"
    app.extensions["serve_bridge"].close()


# rules


def test_rules_after_init_app_are_refused() -> None:
    """As a blueprint's are once it is registered; the message says what to call."""
    bridge = ServeBridge(Flask(__name__))
    with pytest.raises(RuntimeError, match=r"add_url_rule\('/x', view_func=bridge.view\('e'\)\)"):
        bridge.route("/x", "e")


def test_a_rule_has_methods_a_name_and_options(make_app: MakeApp) -> None:
    """Whatever Flask and the bridge know of a route."""
    bridge = ServeBridge()
    bridge.route("/add", "counter", methods=["POST"], name="add", method_name="add")
    app = make_app(bridge)
    assert app.test_client().post("/add?by=2", json=3).json == {"sum": 5}
    assert app.test_client().get("/add").status_code == 405
    with app.test_request_context():
        assert url_for("serve_bridge.add") == "/add"


def test_an_unknown_option_of_a_rule_is_named() -> None:
    """With the nearest one."""
    with pytest.raises(TypeError, match="did you mean 'timeout_s'"):
        ServeBridge().route("/x", "e", timeout=5)  # type: ignore[call-arg]


def test_a_blueprint_forwards(make_app: MakeApp) -> None:
    """With its prefix, converters and hooks, and more rules of its own."""
    app = make_app()
    blueprint = ServeBridge().blueprint(
        "models", __name__, url_prefix="/models", routes={"/counter": "counter", "/echo/<int:count>": "echo"}
    )
    blueprint.add_url_rule("/own", view_func=lambda: "own", endpoint="own")

    @blueprint.after_request
    def mark(response: Response) -> Response:
        response.headers["x-mark"] = "1"
        return response

    app.register_blueprint(blueprint)
    http = app.test_client()
    assert (http.get("/models/counter").text, http.get("/models/own").text) == ("call", "own")
    echoed = http.put("/models/echo/7")
    assert echoed.json is not None
    assert (echoed.json["params"], echoed.headers["x-mark"]) == ({"count": ["int", "7"]}, "1")
    with app.test_request_context():
        assert url_for("models.echo", count=7) == "/models/echo/7"


def test_routes_are_forwarded_before_the_apps_own_routing(make_app: MakeApp) -> None:
    """Only what they name: a pattern and a method."""
    app = make_app(SERVE_BRIDGE_ROUTES={"/<name>": {"endpoint": "counter", "methods": ["POST"]}})
    app.add_url_rule("/own", view_func=lambda: "own", endpoint="own", methods=["GET", "POST"])
    http = app.test_client()
    assert (http.post("/own").text, http.get("/own").text) == ("call", "own")
    assert http.post("/a/b").status_code == 404


def test_a_route_may_use_a_converter_of_the_app(engine: serve.Client) -> None:
    """One that it has registered before."""
    from werkzeug.routing import BaseConverter

    class Letters(BaseConverter):
        regex = "[a-z]+"

    app = Flask(__name__)
    app.url_map.converters["letters"] = Letters
    app.config.update(SERVE_BRIDGE_ADDRESS=engine.address, SERVE_BRIDGE_ROUTES={"/c/<letters:x>": "counter"})
    ServeBridge(app)
    assert (app.test_client().get("/c/a").text, app.test_client().get("/c/1").status_code) == ("call", 404)
    app.extensions["serve_bridge"].close()


def test_hooks_see_the_forwarded_route(make_app: MakeApp) -> None:
    """Not the one that the app would have chosen, not even its blueprint's hooks."""
    app = make_app(SERVE_BRIDGE_ROUTES={"/own/<path:rest>": "counter"})
    own = Blueprint("own", __name__, url_prefix="/own")
    own.add_url_rule("/x", view_func=lambda: "own", endpoint="x")
    seen: list[Any] = []
    own.before_request(lambda: seen.append("own blueprint"))
    app.before_request(lambda: seen.append((request.endpoint, request.view_args)))
    app.register_blueprint(own)
    assert app.test_client().get("/own/x").text == "call"
    assert seen == [("serve_bridge.counter", {"rest": "x"})]


def test_a_host_that_is_not_trusted_gets_nothing_forwarded(make_app: MakeApp) -> None:
    """Flask's refusal stays."""
    app = make_app(SERVE_BRIDGE_ROUTES={"/counter": "counter"}, TRUSTED_HOSTS=["good.example"])
    assert app.test_client().get("/counter", base_url="http://evil.example").status_code == 400
    assert app.test_client().get("/counter", base_url="http://good.example").text == "call"


def test_the_options_of_a_forwarded_route_are_flasks_to_answer(make_app: MakeApp) -> None:
    """Unless the route names the method."""
    app = make_app(SERVE_BRIDGE_ROUTES={"/counter": {"endpoint": "counter", "methods": ["POST"]}})
    assert set(app.test_client().options("/counter").allow) == {"POST", "OPTIONS"}


# CSRF, by Flask-WTF


@pytest.fixture
def protected(make_app: MakeApp) -> Flask:
    """An app whose forms are protected, with two forwarded views of one endpoint and a forwarded route."""
    app = make_app(SERVE_BRIDGE_ROUTES={"/ahead": {"endpoint": "echo", "name": "ahead"}})
    csrf = CSRFProtect(app)
    csrf.exempt(forward(app, "/exempt", "echo"))
    forward(app, "/echo", "echo")
    app.add_url_rule("/token", view_func=lambda: generate_csrf(), endpoint="token")
    return app


@pytest.mark.parametrize("path", ["/echo", "/ahead"])
def test_a_forwarded_post_is_protected(protected: Flask, path: str) -> None:
    """As the app's own are, also before its own routing, and also if another view of the endpoint is exempt."""
    assert protected.test_client().post(path, data={"x": "1"}).status_code == 400


def test_a_forwarded_post_may_be_exempt(protected: Flask) -> None:
    """As a view."""
    assert protected.test_client().post("/exempt", data={"x": "1"}).status_code == 200


def test_a_route_may_be_exempt(protected: Flask) -> None:
    """By the view that it has among the app's."""
    protected.extensions["csrf"].exempt(protected.view_functions["serve_bridge.ahead"])
    assert protected.test_client().post("/ahead", data={"x": "1"}).status_code == 200
    assert protected.test_client().post("/echo", data={"x": "1"}).status_code == 400


def test_a_form_with_a_token_is_forwarded(protected: Flask) -> None:
    """Whole, though the protection has parsed it."""
    http = protected.test_client()
    token = http.get("/token").text
    answer = http.post("/echo", data={"csrf_token": token, "x": "1"})
    assert answer.json is not None
    assert answer.json["body"] == f"csrf_token={token}&x=1"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ServeBridge(backends="backends"), serve.ConfigError, "backends must be a list, got 'backends'"),
        (lambda: ServeBridge("shop"), TypeError, "ServeBridge takes a Flask app"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_of_the_extension_is_named(make: Any, error: type[Exception], text: str) -> None:
    """Where it is given, not with the first request."""
    with pytest.raises(error, match=text):
        make()


def test_the_method_is_in_upper_case(make_app: MakeApp, engine: serve.Client) -> None:
    """Some servers accept `get`, and Flask routes it to views as GET. The backend sees GET too."""
    engine.create_backend("method", lambda request: request.method)
    engine.create_endpoint("method", backend="method")
    try:
        app = make_app()
        forward(app, "/method", "method")
        assert app.test_client().get("/method", environ_overrides={"REQUEST_METHOD": "get"}).text == "GET"
    finally:
        engine.delete_endpoint("method")
        engine.delete_backend("method")
