"""A Flask app with a page for uploaded digits, and a forwarded route for programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from examples.flask_app.pages import blueprint, bridge

UPLOAD_LIMIT = 1 << 20


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Return the app. It uses the instance at SERVE_BRIDGE_ADDRESS, or this user's instance on this machine.

    *config* overrides the settings below, for tests.
    """
    app = Flask(__name__, static_folder=Path(__file__).parents[1] / "static")
    app.config["MAX_CONTENT_LENGTH"] = UPLOAD_LIMIT
    app.config["SERVE_BRIDGE_BACKENDS"] = ["examples.digits"]
    app.config["SERVE_BRIDGE_TIMEOUT_S"] = 20  # for forwarded routes and handles: gunicorn kills a worker after 30 s
    app.config.update(config or {})
    bridge.init_app(app)
    app.register_blueprint(blueprint)
    # The bridge forwards requests and answers unchanged.
    app.add_url_rule("/api/digits", view_func=bridge.view("digits"), methods=["POST"])
    return app
