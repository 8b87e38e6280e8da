"""What is special to Flask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.exceptions import HTTPException, ServiceUnavailable

import serve_bridge as serve
from serve_bridge.adapters.flask import ServeBridge
from tests.adapters.fronts import flask_app


def test_the_apps_error_handlers_run(tmp_path: Path) -> None:
    """No instance is a ServiceUnavailable with a time to come back."""
    app = flask_app(str(tmp_path / "none.json"))

    @app.errorhandler(503)
    def unavailable(error: ServiceUnavailable) -> Any:
        return f"back in {error.get_response().headers['retry-after']}", 503

    assert app.test_client().get("/counter").text == "back in 1"


def test_a_failing_backend_reaches_the_handler_for_all_errors(engine: serve.Client) -> None:
    """It is an InternalServerError like that of a failing view."""
    app = flask_app(engine.address)

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Any:
        return {"code": error.code}, error.code

    assert app.test_client().get("/failing").json == {"code": 500}
    app.extensions["serve_bridge"].close()


def test_hooks_run_around_a_forwarded_route(engine: serve.Client) -> None:
    """A login check in `before_request` guards it."""
    app = flask_app(engine.address)

    @app.before_request
    def login() -> Any:
        return None if "user" in request.args else ("who are you", 401)

    assert app.test_client().get("/counter").status_code == 401
    assert app.test_client().get("/counter?user=me").text == "call"
    app.extensions["serve_bridge"].close()


def test_the_apps_limit_on_bodies_holds(engine: serve.Client) -> None:
    """MAX_CONTENT_LENGTH."""
    app = flask_app(engine.address)
    app.config["MAX_CONTENT_LENGTH"] = 10
    assert app.test_client().post("/form", data=b"x" * 11).status_code == 413
    app.extensions["serve_bridge"].close()


def test_a_view_calls_a_handle(engine: serve.Client) -> None:
    """Synchronously, without Ray in the process."""
    app = flask_app(engine.address)
    bridge = ServeBridge()
    app.add_url_rule("/h", "h", lambda: bridge.get_handle("counter").options(method_name="add").call(1, by="2"))
    assert app.test_client().get("/h").json == {"sum": 3}
    app.extensions["serve_bridge"].close()


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
