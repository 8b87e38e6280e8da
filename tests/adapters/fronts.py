"""The same endpoints behind each front end, as applications that a test client calls."""

from __future__ import annotations

from typing import Any

from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount, Route

import serve_bridge as serve
from serve_bridge.adapters import flask, starlette
from tests.adapters.endpoints import BACKENDS

METHODS = ["GET", "POST", "PUT"]
NAMES = [backend.__name__.lower() for backend in BACKENDS if backend.__name__ != "echo"]


def flask_app(address: str) -> Flask:
    """Return a Flask app whose routes lead to the endpoints."""
    app = Flask(__name__)
    app.config["SERVE_BRIDGE_ADDRESS"] = address
    bridge = flask.ServeBridge(app)
    for name in NAMES:
        app.add_url_rule(f"/{name}", view_func=bridge.view(name), methods=METHODS)
    app.add_url_rule("/echo/<int:count>/<path:rest>", view_func=bridge.view("echo"), methods=METHODS)
    app.add_url_rule("/missing", view_func=bridge.view("missing"))
    app.add_url_rule("/add", view_func=bridge.view("counter", method_name="add"), methods=METHODS, endpoint="add")
    return app


def starlette_app(bridge: starlette.ServeBridge) -> Starlette:
    """Return a Starlette app whose routes lead to the endpoints, and a mount that leads to all of them."""
    routes: list[Any] = [Route(f"/{name}", bridge.forward(name), methods=METHODS) for name in NAMES]
    return Starlette(
        routes=[
            *routes,
            Route("/echo/{count:int}/{rest:path}", bridge.forward("echo"), methods=METHODS),
            Route("/missing", bridge.forward("missing")),
            Route("/add", bridge.forward("counter", method_name="add"), methods=METHODS),
            Mount("/all", app=bridge),
        ]
    )


class DjangoSite:
    """A Django project whose URLs lead to the endpoints, under settings for one instance."""

    def __init__(self, client: serve.Client, urls: str) -> None:
        self._settings = override_settings(
            ROOT_URLCONF=urls, SERVE_BRIDGE={"ADDRESS": client.address}, ALLOWED_HOSTS=["*"]
        )

    def __enter__(self) -> WSGIHandler:
        self._settings.enable()
        return WSGIHandler()

    def __exit__(self, *_: object) -> None:
        self._settings.disable()
